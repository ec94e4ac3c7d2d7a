package failover

import "sync"

// queue hands values to a function of the program: in order, one at a time, away from
// the request path.
type queue[T any] struct {
	field  string // of Config that holds the function, without its "On"
	limit  int    // of values that wait for it
	handle func(T)

	mu      sync.Mutex
	waiting []T
	dropped int    // not logged yet
	lost    uint64 // dropped in all
	running bool   // the goroutine that hands on runs
	closed  bool
}

// put queues a value, and starts the goroutine that hands it on. More than the limit is
// dropped, which the log tells.
func (q *queue[T]) put(t *Transport, v T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return
	case len(q.waiting) == q.limit:
		q.dropped++
		q.lost++
		return
	}
	q.waiting = append(q.waiting, v)
	if !q.running {
		q.running = true
		t.wg.Go(func() { q.handOn(t) })
	}
}

// handOn hands on what waits, and ends when nothing is left.
func (q *queue[T]) handOn(t *Transport) {
	for {
		q.mu.Lock()
		batch, dropped := q.waiting, q.dropped
		q.waiting, q.dropped = nil, 0
		if len(batch) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for _, v := range batch {
			q.handle(v)
		}
		if dropped > 0 {
			t.cfg.Logger.Warn("failover: dropped because On"+q.field+" is slow", "organization", t.org.Primary.Host, "dropped", dropped)
		}
	}
}

// close ends the queue: what waits is handed on, and nothing more.
func (q *queue[T]) close() {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// droppedInAll returns how many values were dropped. A nil queue has dropped none.
func (q *queue[T]) droppedInAll() uint64 {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}
