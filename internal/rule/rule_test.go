package rule

import (
	"slices"
	"testing"
	"time"
)

func TestEveryOrderOfEvents(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Limits){
		"two addresses":   func(*Limits) {},
		"manual failback": func(l *Limits) { l.Manual = true },
		"one address":     func(l *Limits) { l.Single = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits := small
			change(&limits)
			explore(t, limits)
		})
	}
}

func explore(t *testing.T, limits Limits) {
	began := time.Unix(0, 0)
	start := world{r: Rule{Limits: limits, View: View{Since: began}}, now: began}
	type came struct{ from, by int32 }
	steps := allSteps()
	ids := map[key]int32{start.key(): 0}
	trail := []came{{-1, -1}}
	queue := []world{start}
	var auto, ends []int32 // the automatic successors of each state, and where each state's list ends
	edges := 0
	var next world
	for from := int32(0); int(from) < len(queue); from++ {
		w := queue[from]
		for i := range steps {
			next = w
			wrong, ok := steps[i].do(&next)
			if !ok {
				continue
			}
			edges++
			if !next.r.asking || next.r.question != w.r.question {
				next.proposed = false // the question has ended
			}
			if wrong == "" {
				wrong = check(&w, &next, &steps[i])
			}
			if wrong != "" {
				story := "  " + steps[i].name
				for k := from; trail[k].by >= 0; k = trail[k].from {
					story = "  " + steps[trail[k].by].name + "\n" + story
				}
				t.Fatalf("%s:\n%s\nfrom %+v\nto   %+v", wrong, story, w.r, next.r)
			}
			key := next.key()
			id, known := ids[key]
			if !known {
				id = int32(len(queue))
				ids[key] = id
				trail = append(trail, came{from, int32(i)})
				queue = append(queue, next)
				if len(queue) == maxStates {
					t.Fatal("too many states")
				}
			}
			if !steps[i].hand && id != from {
				auto = append(auto, id)
			}
		}
		ends = append(ends, int32(len(auto)))
	}
	t.Logf("%d states, %d steps", len(queue), edges)

	// Whatever has happened, unless it was closed or pinned, the traffic can still reach
	// either side without a person.
	for _, side := range []Side{Primary, Alternate} {
		if limits.Single && side == Alternate {
			continue
		}
		leads := make([]bool, len(queue))
		for more := true; more; {
			more = false
			for id := len(queue) - 1; id >= 0; id-- {
				if leads[id] {
					continue
				}
				first := int32(0)
				if id > 0 {
					first = ends[id-1]
				}
				leads[id] = queue[id].r.Active == side || slices.ContainsFunc(auto[first:ends[id]], func(next int32) bool { return leads[next] })
				more = more || leads[id]
			}
		}
		for id := range queue {
			if r := &queue[id].r; !leads[id] && !r.Closed && !r.Pinned {
				t.Fatalf("no way to side %d from %+v", side, *r)
			}
		}
	}
}

// maxStates is twice the number of states that the rule has.
const maxStates = 160_000
