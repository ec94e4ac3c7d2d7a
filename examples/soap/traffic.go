package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/d365failover/failover/internal/timeline"
)

// traffic is the work of a program that knows nothing about failovers.
type traffic struct {
	client *Client
	pace   time.Duration // of one worker: from the start of a call to that of the next
	failed func(error)   // called for every call that failed

	mu      sync.Mutex
	created []string // ids of the accounts whose creation was acknowledged
}

const workers = 2

// run works until the duration is over or ctx ends.
func (t *traffic) run(ctx context.Context, duration time.Duration) {
	end := time.Now().Add(duration)
	var all sync.WaitGroup
	for i := range workers {
		offset := t.pace * time.Duration(i) / workers
		all.Go(func() { t.work(ctx, offset, end) })
	}
	all.Wait()
}

// work makes one call after the other. It finishes a call that has begun, unless ctx ends.
func (t *traffic) work(ctx context.Context, offset time.Duration, end time.Time) {
	jobs := new(worker).jobs(t)
	timer := time.NewTimer(offset)
	defer timer.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if !time.Now().Before(end) {
			return
		}
		timer.Reset(t.pace)
		if err := jobs[i%len(jobs)](ctx); err != nil && ctx.Err() == nil {
			t.failed(err)
		}
	}
}

// worker is the state of one worker.
type worker struct {
	own Account // the account that it created last, in its expected state
}

// jobs returns what a worker does in turn. The last job checks what was written before, whichever
// datacenter has served since.
func (w *worker) jobs(t *traffic) []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error {
			user, err := t.client.WhoAmI(ctx)
			if err == nil && user == "" {
				err = errors.New("the answer to WhoAmI has no user")
			}
			return err
		},
		func(ctx context.Context) error {
			w.own = Account{ID: uuid.NewString(), Name: "Failover example"}
			err := t.client.Create(ctx, w.own)
			if err == nil {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.created = append(t.created, w.own.ID)
			}
			return err
		},
		func(ctx context.Context) error {
			const count = 10
			accounts, err := t.client.Accounts(ctx, count)
			if err == nil && len(accounts) != count {
				err = fmt.Errorf("%d accounts listed, want %d", len(accounts), count)
			}
			return err
		},
		func(ctx context.Context) error {
			w.own.Description = "updated at " + time.Now().Format(time.RFC3339Nano)
			return t.client.Update(ctx, w.own)
		},
		func(ctx context.Context) error {
			account, err := t.client.Account(ctx, w.own.ID)
			if err == nil && account != w.own {
				err = errors.New("an account differs from what was written")
			}
			return err
		},
	}
}

// confirm reads the created accounts back and reports whether all are present. It also does so
// after Ctrl-C, for up to a minute.
func (t *traffic) confirm(ctx context.Context, out io.Writer) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	present := 0
	var failure error
	for _, id := range t.created {
		if _, err := t.client.Account(ctx, id); err != nil {
			failure = err
			continue
		}
		present++
	}
	timeline.Item(out, "accounts created", len(t.created), fmt.Sprintf("%d confirmed present by reading them back", present))
	if failure != nil {
		fmt.Fprintf(out, "\nCould not read an account back: %v\n", failure)
	}
	return failure == nil
}
