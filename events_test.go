package failover

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A hundred writes in doubt are one problem. They must not hide the switch that caused them.
func TestTheLastEventsKeepWhatIsRare(t *testing.T) {
	t.Parallel()
	var recent []Event
	for _, kind := range []EventKind{EventTripped, EventSwitched, EventTokensSuspect} {
		recent = appendRecent(recent, Event{Kind: kind})
	}
	for i := range 10 * maxRecent {
		recent = appendRecent(recent, Event{Kind: EventOutcomeUnknown, Generation: uint64(i)})
		assert.LessOrEqual(t, len(recent), maxRecent)
	}
	assert.Equal(t, EventTripped, recent[0].Kind)
	assert.Equal(t, EventSwitched, recent[1].Kind)
	assert.EqualValues(t, 10*maxRecent-1, recent[maxRecent-1].Generation, "the newest one is there")
	assert.EqualValues(t, 10*maxRecent-2, recent[maxRecent-2].Generation, "in order")
}

// Every kind of event is logged with the level and the fields that docs/operations.md names.
func TestEventsAreLoggedAsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	levels := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| (?:DEBUG|INFO|WARN|ERROR) `[^|]*\\|").FindAllString(string(text), -1) {
		level := ""
		for _, word := range regexp.MustCompile("[A-Z]{4,}|`failover: [^`]+`").FindAllString(row, -1) {
			if message, found := strings.CutPrefix(strings.Trim(word, "`"), "failover: "); found {
				levels[message] = level
			} else {
				level = word
			}
		}
	}
	var line bytes.Buffer
	transport := newTestTransport(t, acknowledging, Config{Logger: slog.New(slog.NewJSONHandler(&line, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for kind := range EventRenewed + 1 {
		line.Reset()
		transport.log(Event{
			Kind: kind, Generation: 7, From: Alternate, To: Primary, Reason: "drill", Fault: &Fault{Class: ClassUnavailable}, Err: errors.New("contoso"),
			Loss: &LossReport{AtRisk: make([]Write, 2), Unknown: make([]Write, 3), Truncated: true}, Write: &Write{Method: "POST", Path: "/x", Label: "import"},
		})
		var got map[string]any
		require.NoError(t, json.Unmarshal(line.Bytes(), &got))
		delete(got, "time")
		assert.Equal(t, map[string]any{
			"level": levels[kind.String()], "msg": "failover: " + kind.String(), "organization": "contoso.api.crm.dynamics.com", "generation": 7.0,
			"from": "alternate", "to": "primary", "reason": "drill", "fault": "unavailable, request outcome unknown", "error": "contoso",
			"at_risk": 2.0, "unknown": 3.0, "truncated": true, "method": "POST", "path": "/x", "label": "import",
		}, got)
	}
	assert.Equal(t, "unknown", (EventRenewed + 1).String())
}

// The log bounds the value that a program's own function panics with.
func TestTheTextOfAPanicIsBounded(t *testing.T) {
	t.Parallel()
	var line bytes.Buffer
	transport := newTestTransport(t, acknowledging, Config{Logger: slog.New(slog.NewJSONHandler(&line, nil))})
	assert.ErrorIs(t, transport.protect("OnEvent", func() { panic("x" + strings.Repeat(" x", maxErrorText)) }), errPanicked)
	var got struct{ Panic, Function string }
	require.NoError(t, json.Unmarshal(line.Bytes(), &got))
	assert.InDelta(t, maxErrorText, len(got.Panic), 1)
	assert.Equal(t, "Config.OnEvent", got.Function)
}

// When the events are full, the oldest one of the most frequent kind is dropped.
func TestTheMostFrequentEventsGoFirst(t *testing.T) {
	t.Parallel()
	for pattern := range 200 {
		recent := make([]Event, maxRecent)
		numbers := make(map[EventKind]int)
		for i := range recent {
			recent[i] = Event{Kind: EventKind(i * (pattern + 1) / 7 % 5 * (i % (pattern%4 + 1))), Generation: uint64(i)}
			numbers[recent[i].Kind]++
		}
		before := slices.Clone(recent)
		after := appendRecent(recent, Event{Generation: maxRecent})
		assert.Equal(t, before, recent, "which Status may have handed out")
		gone := 0
		for gone < maxRecent && after[gone].Generation == uint64(gone) {
			gone++
		}
		assert.Equal(t, slices.Insert(slices.Clone(after), gone, before[gone]), append(before, Event{Generation: maxRecent}), "one is gone")
		for kind, n := range numbers {
			assert.LessOrEqual(t, n, numbers[before[gone].Kind], "%v", kind)
		}
		assert.Equal(t, gone, slices.IndexFunc(before, func(e Event) bool { return e.Kind == before[gone].Kind }), "the oldest")
	}
}

// Without OnEvent, nothing can panic.
func TestEventsNeedNoFunction(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	status := transport.Status()
	assert.Zero(t, status.EventsDropped+status.WritesDropped)
	transport.Pin(Primary)
	transport.Close()
	assert.Contains(t, log.String(), "failover: pinned")
	assert.NotContains(t, log.String(), "panicked")
	assert.NotContains(t, log.String(), "dropped", "nothing was")
}
