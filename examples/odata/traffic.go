package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// traffic is the work of a program that does not know that datacenters fail.
type traffic struct {
	client  *Client
	write   bool          // create and update, too
	workers int           // that do one job after the other
	pace    time.Duration // of one worker: from the start of a job to the next
	failed  func(error)   // is told of every job that failed

	updates atomic.Int64 // made
	shared  string       // id of the account that all updates are made to

	mu        sync.Mutex
	attempted []string // ids of accounts that were sent
	created   []string // ids of accounts whose creation was acknowledged
}

const (
	accountName = "Failover example (may be deleted)"
	pageSize    = 10
	listLength  = 25 // accounts read by one job, in pages
)

// prepare creates the account that will be updated, and reports whether there
// is a point in going on.
func (t *traffic) prepare(ctx context.Context) bool {
	if !t.write {
		return true
	}
	t.shared = NewID()
	err := t.create(ctx, t.shared)
	if err != nil && ctx.Err() == nil {
		t.failed(err)
	}
	return err == nil
}

// run works until the duration is over or ctx ends.
func (t *traffic) run(ctx context.Context, duration time.Duration) {
	jobs := []func(context.Context) error{t.list}
	if t.write {
		jobs = append(jobs, t.createNext, t.update, t.update)
	}
	end := time.After(duration)
	over := make(chan struct{})
	var workers sync.WaitGroup
	for i := range t.workers {
		job := jobs[i%len(jobs)]
		offset := t.pace * time.Duration(i) / time.Duration(t.workers)
		workers.Go(func() { t.work(ctx, over, job, offset) })
	}
	select {
	case <-end:
	case <-ctx.Done():
	}
	close(over)
	workers.Wait()
}

// work does a job again and again until over is closed. A job that has begun
// is finished, unless ctx ends.
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

func (t *traffic) createNext(ctx context.Context) error { return t.create(ctx, NewID()) }

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

// update is made to the same account by several workers, so that they meet.
func (t *traffic) update(ctx context.Context) error {
	err := t.client.Update(ctx, t.shared, func(a *Account) {
		a.Description = "updated at " + time.Now().Format(time.RFC3339Nano)
	})
	if err != nil {
		return fmt.Errorf("update an account: %w", err)
	}
	t.updates.Add(1)
	return nil
}

// confirm reads the created accounts back and returns the ids of those that
// are not there. An error means that the rest could not be read.
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

// cleanUp deletes the accounts that were sent, acknowledged or not.
func (t *traffic) cleanUp(ctx context.Context) error {
	for _, id := range t.attempted {
		if err := t.client.Delete(ctx, id); err != nil {
			return fmt.Errorf("delete the accounts named %q: %w", accountName, err)
		}
	}
	return nil
}
