package drill

import (
	"context"
	"fmt"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/dr"
)

// stages follows the operations of Microsoft's administration API.
type stages struct {
	client *dr.Client
	id     string // of the environment
	since  time.Time
}

// followEvery is the time between two requests to the API.
const followEvery = 15 * time.Second

// follow reports every new status until ctx ends.
func (s *stages) follow(ctx context.Context, l *live) {
	told := make(map[string]string) // status by operation and stage
	failed := false
	tell := func(key, name, status string) {
		if told[key] != status {
			told[key] = status
			l.say("stage", fmt.Sprintf("Microsoft: %s is %s", name, status))
		}
	}
	every(ctx, followEvery, func(int) {
		list, err := s.read(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			l.say("note", "The stages cannot be read: "+err.Error())
		}
		if failed = err != nil; failed {
			return
		}
		for _, o := range list {
			tell(o.ID, o.Name, o.Status)
			for _, stage := range o.Stages {
				tell(o.ID+" "+stage.Name, o.Name+", "+stage.Name, stage.Status)
			}
		}
	})
}

// read returns the operations that have not ended before the watch began.
func (s *stages) read(ctx context.Context) ([]dr.Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	list, err := s.client.Operations(ctx, s.id, 20, s.since)
	var during []dr.Operation
	for _, o := range list {
		if o.StartTime != nil && (o.EndTime == nil || !o.EndTime.Before(s.since)) {
			during = append(during, o)
		}
	}
	return during, err
}

// readOperations reads the operations that overlap the watch.
func (r *Record) readOperations(ctx context.Context, client *dr.Client, id string) {
	list, err := (&stages{client, id, r.Started}).read(ctx)
	if err != nil {
		r.OperationsError = err.Error()
	}
	for _, o := range list {
		if !o.StartTime.After(r.Ended) {
			r.Operations = append(r.Operations, o)
		}
	}
}
