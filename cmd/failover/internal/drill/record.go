package drill

import (
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/dr"
)

// A Record is everything that the watch has seen, and the content of the JSON file. Times are
// UTC, by the clock of this machine.
type Record struct {
	Organization string    `json:"organization"`
	Alternate    string    `json:"alternate,omitempty"` // if it was watched
	Machine      string    `json:"machine"`
	Version      string    `json:"version"`
	Simulated    bool      `json:"simulated"`
	Started      time.Time `json:"started"`
	Ended        time.Time `json:"ended"`
	// Interval is the time between two samples, and Timeout bounds each, in seconds.
	Interval float64 `json:"intervalSeconds"`
	Timeout  float64 `json:"timeoutSeconds"`

	Result  Result   `json:"result"`
	Outages []Outage `json:"outages"`
	Events  []Event  `json:"events"`
	// Heartbeat is nil without -heartbeat.
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`
	// Operations are those of Microsoft's administration API that overlap the watch, and
	// OperationsError is why they could not be read. Both are empty without -environment.
	Operations      []dr.Operation `json:"operations,omitempty"`
	OperationsError string         `json:"operationsError,omitempty"`
	// Account is what the simulator did, nil unless Simulated.
	Account []Move   `json:"account,omitempty"`
	Samples []Sample `json:"samples"`
}

// A Series is a way to watch the organization.
type Series string

// The series.
const (
	New    Series = "new connections" // one for each sample
	Kept   Series = "kept connection" // one, as long as it lasts
	Writes Series = "writes"          // heartbeats, over new connections
	// Second are new connections to the alternate address. Either is served while one of
	// the two addresses is.
	Second Series = "alternate address"
	Either Series = "either address"
)

// A State is what a sample shows.
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
	// Cause is why the organization did not serve, in a few words.
	Cause string `json:"cause,omitempty"`
	// Address is where the connection led: that of the proxy if there is one.
	Address string `json:"address,omitempty"`
	// Name are the addresses of the organization's name, in the series New only.
	Name []string `json:"name,omitempty"`
	// Reused: the connection is that of the previous sample.
	Reused bool `json:"reused,omitempty"`
}

// ended returns when the sample ended.
func (s *Sample) ended() time.Time { return s.Begun.Add(seconds(s.Took)) }

// A Heartbeat is the result of writing marker records.
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
	// Answer is the organization's answer to the write.
	Answer Answer `json:"answer"`
	Cause  string `json:"cause,omitempty"`
	// Found is the result of reading the record back.
	Found Found `json:"found"`

	status int // of the answer
}

// An Answer is the result of a write.
type Answer string

// The answers.
const (
	Written Answer = "written"   // acknowledged
	Refused Answer = "refused"   // provably not carried out
	InDoubt Answer = "in doubt"  // no definite answer
	NoToken Answer = "not tried" // there was no token
)

// Found is the result of reading a record back.
type Found string

// The results of reading back.
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
	// LastServed is when the last good answer before it arrived, zero if there was none.
	// Stopped is when the first failed request started.
	LastServed time.Time `json:"lastServed,omitzero"`
	Stopped    time.Time `json:"stopped"`
	// LastFailed is when the last failed request started, and Recovered when the first good
	// answer after it arrived, zero if none did.
	LastFailed time.Time `json:"lastFailed"`
	Recovered  time.Time `json:"recovered,omitzero"`
	// Failures is how many requests failed, and Causes are the different reasons, in order.
	Failures int      `json:"failures"`
	Causes   []string `json:"causes"`
	// Duration is the time from Stopped to Recovered, in seconds. The true value is between
	// Least, the time from the end of the first failure to the start of the last failed
	// request, and Most, the time from the start of the last good request to Recovered. For
	// an outage that is not over, all three end with the last failed request.
	Duration float64 `json:"durationSeconds"`
	Least    float64 `json:"leastSeconds"`
	Most     float64 `json:"mostSeconds"`
	// Lost are the numbers of the heartbeats that the outage lost, and Loss is the time from
	// the last one that survived to the last one that was acknowledged, in seconds.
	Lost []int   `json:"lost,omitempty"`
	Loss float64 `json:"lossSeconds"`
}

func (o *Outage) over() bool { return !o.Recovered.IsZero() }

// Result is what the drill has measured. Figures that were not measured are nil.
type Result struct {
	// RTO is the longest outage of new connections (to both addresses if the alternate was
	// watched), 0 if there was none, and RPO is the longest loss, in seconds.
	RTO *float64 `json:"rtoSeconds"`
	RPO *float64 `json:"rpoSeconds"`
	// Lost is how many acknowledged heartbeats are missing.
	Lost int `json:"lost"`
	// Summary is a summary for people.
	Summary string `json:"summary"`
}

// An Event is an entry of the timeline.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is "stopped", "changed", "served", "name", "place", "connection",
	// "stage", "simulation" or "note".
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// A Move is a move of the simulated organization, as the simulator reports it.
type Move struct {
	What     string    `json:"what"`
	Stopped  time.Time `json:"stopped"`
	Served   time.Time `json:"served"`
	LastSync time.Time `json:"lastSync"`
	Lost     int       `json:"lost"`
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
