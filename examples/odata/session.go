package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/internal/timeline"
)

// session is one run of the program.
type session struct {
	orgURL     string
	config     failover.Config
	simulation *simulation // nil for a real organization
	traffic    *traffic
	duration   time.Duration
	period     time.Duration // of the timeline
}

// run works for the duration and returns the exit status.
func (s session) run(ctx context.Context, stdout, stderr io.Writer) int {
	org, err := failover.ParseOrg(s.orgURL)
	if err != nil {
		fmt.Fprintln(stderr, "odata:", err)
		return 2
	}
	if s.config.Alternate == failover.NoAlternate {
		org.Alternate = nil
	}
	line := timeline.New(stdout, org)
	s.config.OnEvent = line.OnEvent
	s.config.Logger = slog.New(slog.DiscardHandler) // the timeline shows the same

	// A program needs only this to survive failovers.
	client, transport, err := failover.Wrap(nil, s.orgURL, &s.config)
	if err != nil {
		fmt.Fprintln(stderr, "odata:", err)
		return 2
	}
	defer transport.Close()

	root := org.Primary.String() + "/api/data/v9.2/"
	s.traffic.client = &Client{HTTP: client, Root: root, OnCall: func(c Call) { line.Call(c.Method, c.Host, c.Took) }}
	s.traffic.failed = line.Failed
	fmt.Fprintf(stdout, "\n  primary    %s\n", org.Primary)
	if org.Alternate != nil {
		fmt.Fprintf(stdout, "  alternate  %s\n", org.Alternate)
	}
	fmt.Fprintln(stdout)
	line.Begin(s.period)
	s.work(ctx, line)
	sum := line.End()

	// Reading back and cleaning up are not part of the traffic. They also happen after Ctrl-C,
	// for up to a minute.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	s.traffic.client = &Client{HTTP: client, Root: root}
	return s.conclude(ctx, sum, stdout)
}

// work runs the traffic, and the disasters if they are simulated.
func (s session) work(ctx context.Context, line *timeline.Timeline) {
	if !s.traffic.prepare(ctx) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var outage sync.WaitGroup
	if s.simulation != nil {
		outage.Go(func() { line.Play(ctx, s.duration, s.simulation.scenes()) })
	}
	s.traffic.run(ctx, s.duration)
	cancel()
	outage.Wait()
}

// conclude prints the summary and returns the exit status.
func (s session) conclude(ctx context.Context, sum timeline.Summary, out io.Writer) int {
	problems := sum.Failures
	sum.Print(out)
	if s.traffic.write {
		missing, err := s.traffic.confirm(ctx)
		created := len(s.traffic.created)
		timeline.Item(out, "updates", s.traffic.updates.Load(), "each conditional on its ETag")
		if err == nil {
			timeline.Item(out, "accounts created", created, fmt.Sprintf("%d confirmed present by reading them back", created-len(missing)))
		}
		if err == nil && s.simulation == nil {
			err = s.traffic.cleanUp(ctx)
		}
		if err != nil {
			problems++
			fmt.Fprintf(out, "\nCould not %v\n", err)
		}
		if s.simulation != nil {
			problems += s.simulation.explain(out, missing)
		}
	}
	if problems > 0 {
		return 1
	}
	return 0
}
