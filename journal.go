package failover

import "sync"

// maxJournal bounds the writes that wait for Config.OnWrite.
const maxJournal = 4096

// journal hands writes on to Config.OnWrite in order, one at a time.
type journal struct {
	mu      sync.Mutex
	waiting []Write
	dropped int    // not logged yet
	lost    uint64 // dropped in all
	running bool   // the goroutine that hands on runs
	closed  bool
}

// queueWrite queues a write for Config.OnWrite, and starts the goroutine that hands it on.
func (t *Transport) queueWrite(w Write) {
	j := &t.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return
	case len(j.waiting) == maxJournal:
		j.dropped++
		j.lost++
		return
	}
	j.waiting = append(j.waiting, w)
	if !j.running {
		j.running = true
		t.wg.Go(t.handWrites)
	}
}

// close ends the queue: what waits is handed on, and nothing more.
func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
}

// writesLost returns how many writes were dropped.
func (j *journal) writesLost() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lost
}

// handWrites hands the waiting writes to Config.OnWrite, and ends when none is left.
func (t *Transport) handWrites() {
	j := &t.journal
	for {
		j.mu.Lock()
		batch, dropped := j.waiting, j.dropped
		j.waiting, j.dropped = nil, 0
		if len(batch) == 0 {
			j.running = false
			j.mu.Unlock()
			return
		}
		j.mu.Unlock()
		for _, w := range batch {
			t.protect("OnWrite", func() { t.cfg.OnWrite(w) })
		}
		if dropped > 0 {
			t.cfg.Logger.Warn("failover: writes dropped because OnWrite is slow", "organization", t.org.Primary.Host, "dropped", dropped)
		}
	}
}
