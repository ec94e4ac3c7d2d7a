package drill

import (
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/dr"
)

// A Record is everything that was seen. It is what the JSON file holds. Times
// are UTC by the clock of this machine.
type Record struct {
	Organization string    `json:"organization"`
	Alternate    string    `json:"alternate,omitempty"` // if it was watched
	Machine      string    `json:"machine"`
	Version      string    `json:"version"`
	Simulated    bool      `json:"simulated"`
	Started      time.Time `json:"started"`
	Ended        time.Time `json:"ended"`
	// Interval between two samples, and Timeout of each, in seconds.
	Interval float64 `json:"intervalSeconds"`
	Timeout  float64 `json:"timeoutSeconds"`

	Result  Result   `json:"result"`
	Outages []Outage `json:"outages"`
	Events  []Event  `json:"events"`
	// Heartbeat is nil if none was asked for.
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`
	// Operations of Microsoft's administration API that overlap the watch, and
	// why they could not be read. Both are empty if they were not asked for.
	Operations      []dr.Operation `json:"operations,omitempty"`
	OperationsError string         `json:"operationsError,omitempty"`
	// Account is the simulator's own, nil unless Simulated.
	Account []Move   `json:"account,omitempty"`
	Samples []Sample `json:"samples"`
}

// A Series is one way to watch the organization.
type Series string

// The series.
const (
	New    Series = "new connections" // one for each sample
	Kept   Series = "kept connection" // one, as long as it lasts
	Writes Series = "writes"          // heartbeats, over new connections
	// Second are new connections to the alternate address, and Either is served
	// while one of the two addresses is.
	Second Series = "alternate address"
	Either Series = "either address"
)

// A State says what a sample has shown.
type State string

// The states.
const (
	Served  State = "served"
	Failed  State = "failed"
	Unclear State = "unclear" // nothing about the organization
)

// A Sample is one request.
type Sample struct {
	Series Series    `json:"series"`
	Begun  time.Time `json:"begun"`
	Took   float64   `json:"tookSeconds"`
	State  State     `json:"state"`
	// Cause in a few words, if the organization did not serve.
	Cause string `json:"cause,omitempty"`
	// Address that the connection led to; a proxy's, if there is one.
	Address string `json:"address,omitempty"`
	// Name are the addresses of the organization's name. Samples of other
	// series than New have none.
	Name []string `json:"name,omitempty"`
	// Reused: the connection is the one of the sample before.
	Reused bool `json:"reused,omitempty"`
}

// ended returns when the outcome was there.
func (s *Sample) ended() time.Time { return s.Begun.Add(seconds(s.Took)) }

// A Heartbeat is what became of the marker records.
type Heartbeat struct {
	EntitySet string `json:"entitySet"`
	Column    string `json:"column"`
	Run       string `json:"run"` // the marker that all records have
	Beats     []Beat `json:"beats"`
	// Left is how many records were left in the organization.
	Left int `json:"left"`
}

// A Beat is one marker record.
type Beat struct {
	Number int       `json:"number"`
	ID     string    `json:"id"`
	Begun  time.Time `json:"begun"`
	Ended  time.Time `json:"ended"`
	// Answer says what the organization said to the write.
	Answer Answer `json:"answer"`
	Cause  string `json:"cause,omitempty"`
	// Found says what became of the record.
	Found Found `json:"found"`

	status int // of the answer
}

// An Answer to a write.
type Answer string

// The answers.
const (
	Written Answer = "written"   // acknowledged
	Refused Answer = "refused"   // provably not carried out
	InDoubt Answer = "in doubt"  // no definite answer
	NoToken Answer = "not tried" // there was no token to send
)

// Found says what reading a record back has shown.
type Found string

// What is found.
const (
	NotRead    Found = "not read"
	Present    Found = "present"
	Missing    Found = "missing"
	Unreadable Found = "unreadable"
)

// lost reports whether an acknowledged write is gone.
func (b *Beat) lost() bool { return b.Answer == Written && b.Found == Missing }

// An Outage is a time in which a series was not served.
type Outage struct {
	Series Series `json:"series"`
	// LastServed is when the last good answer before it came, zero if there was
	// none; Stopped is when the first request that failed was begun.
	LastServed time.Time `json:"lastServed,omitzero"`
	Stopped    time.Time `json:"stopped"`
	// LastFailed is when the last request that failed was begun, and Recovered
	// when the first good answer after it came, zero if none did.
	LastFailed time.Time `json:"lastFailed"`
	Recovered  time.Time `json:"recovered,omitzero"`
	// Failures is how many requests failed, and Causes how, in order.
	Failures int      `json:"failures"`
	Causes   []string `json:"causes"`
	// Duration is Recovered less Stopped, in seconds. The truth is between Least,
	// from the first failure that was there to the last request that failed, and
	// Most, from the last request that was answered well to Recovered. For an
	// outage that was not over, they are about what was seen of it.
	Duration float64 `json:"durationSeconds"`
	Least    float64 `json:"leastSeconds"`
	Most     float64 `json:"mostSeconds"`
	// Lost are the numbers of the heartbeats that it has cost, and Loss is the
	// time from the last that survived to the last that was acknowledged.
	Lost []int   `json:"lost,omitempty"`
	Loss float64 `json:"lossSeconds"`
}

func (o *Outage) over() bool { return !o.Recovered.IsZero() }

// Result is what the drill has measured. A figure is nil if it was not.
type Result struct {
	// RTO is the longest outage of new connections, to either address if the
	// alternate was watched, and RPO the longest loss, in
	// seconds. RTO is 0 if there was no outage.
	RTO *float64 `json:"rtoSeconds"`
	RPO *float64 `json:"rpoSeconds"`
	// Lost is how many acknowledged heartbeats are missing.
	Lost int `json:"lost"`
	// Summary in a sentence or two.
	Summary string `json:"summary"`
}

// An Event is a line of the timeline.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is "stopped", "changed", "served", "name", "place", "connection",
	// "stage", "simulation" or "note".
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// A Move is what the simulator says about a move of the organization.
type Move struct {
	What     string    `json:"what"`
	Stopped  time.Time `json:"stopped"`
	Served   time.Time `json:"served"`
	LastSync time.Time `json:"lastSync"`
	Lost     int       `json:"lost"`
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
