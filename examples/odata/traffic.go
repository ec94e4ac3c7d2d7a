package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// traffic is the work of a program that knows nothing about failovers.
type traffic struct {
	client  *Client
	write   bool          // create and update, too
	workers int           // each does one job after the other
	pace    time.Duration // of one worker: from the start of a job to that of the next
	failed  func(error)   // called for every job that failed

	updates atomic.Int64 // number of updates
	shared  []string     // ids of the accounts that are updated, one per team

	mu        sync.Mutex
	attempted []string // ids of accounts whose creation was attempted
	created   []string // ids of accounts whose creation was acknowledged
}

const (
	accountName = "Failover example (may be deleted)"
	pageSize    = 10
	listLength  = 25 // accounts read by one job, in pages
)

// team is the number of workers that share an account: one lists, one creates, and two update
// that account, so that their updates conflict from time to time.
const team = 4

// prepare creates the accounts that will be updated, and reports whether it succeeded.
func (t *traffic) prepare(ctx context.Context) bool {
	for i := 0; t.write && i < t.workers; i += team {
		id := NewID()
		if err := t.create(ctx, id); err != nil {
			if ctx.Err() == nil {
				t.failed(err)
			}
			return false
		}
		t.shared = append(t.shared, id)
	}
	return true
}

// job returns the job that a worker repeats.
func (t *traffic) job(worker int) func(context.Context) error {
	switch {
	case !t.write || worker%team == 0:
		return t.list
	case worker%team == 1:
		return func(ctx context.Context) error { return t.create(ctx, NewID()) }
	default:
		return func(ctx context.Context) error { return t.update(ctx, t.shared[worker/team]) }
	}
}

// run works until the duration is over or ctx ends.
func (t *traffic) run(ctx context.Context, duration time.Duration) {
	end := time.After(duration)
	over := make(chan struct{})
	var workers sync.WaitGroup
	for i := range t.workers {
		offset := t.pace * time.Duration(i) / time.Duration(t.workers)
		workers.Go(func() { t.work(ctx, over, t.job(i), offset) })
	}
	select {
	case <-end:
	case <-ctx.Done():
	}
	close(over)
	workers.Wait()
}

// work repeats a job until over is closed. It finishes a job that has begun, unless ctx ends.
func (t *traffic) work(ctx context.Context, over <-chan struct{}, job func(context.Context) error, offset time.Duration) {
	timer := time.NewTimer(offset)
	defer timer.Stop()
	for {
		select {
		case <-over:
			return
		case <-timer.C:
		}
		timer.Reset(t.pace)
		if err := job(ctx); err != nil && ctx.Err() == nil {
			t.failed(err)
		}
	}
}

// list reads the first accounts.
func (t *traffic) list(ctx context.Context) error {
	n := 0
	for _, err := range t.client.Accounts(ctx, pageSize) {
		if err != nil {
			return fmt.Errorf("list accounts: %w", err)
		}
		if n++; n == listLength {
			break
		}
	}
	return nil
}

func (t *traffic) create(ctx context.Context, id string) error {
	t.mu.Lock()
	t.attempted = append(t.attempted, id)
	t.mu.Unlock()
	if err := t.client.Create(ctx, Account{ID: id, Name: accountName}); err != nil {
		return fmt.Errorf("create an account: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.created = append(t.created, id)
	return nil
}

func (t *traffic) update(ctx context.Context, id string) error {
	err := t.client.Update(ctx, id, func(a *Account) {
		a.Description = "updated at " + time.Now().Format(time.RFC3339Nano)
	})
	if err != nil {
		return fmt.Errorf("update an account: %w", err)
	}
	t.updates.Add(1)
	return nil
}

// confirm reads the created accounts back and returns the ids of those that are missing. An error
// means that the rest could not be read.
func (t *traffic) confirm(ctx context.Context) (missing []string, err error) {
	for _, id := range t.created {
		_, err := t.client.Account(ctx, id)
		switch {
		case isStatus(err, http.StatusNotFound):
			missing = append(missing, id)
		case err != nil:
			return missing, fmt.Errorf("read an account back: %w", err)
		}
	}
	return missing, nil
}

// cleanUp deletes the accounts whose creation was attempted, acknowledged or not.
func (t *traffic) cleanUp(ctx context.Context) error {
	for _, id := range t.attempted {
		if err := t.client.Delete(ctx, id); err != nil {
			return fmt.Errorf("delete the accounts named %q: %w", accountName, err)
		}
	}
	return nil
}
