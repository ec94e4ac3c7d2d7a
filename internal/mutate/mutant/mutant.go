// Package mutant switches on a fault that internal/mutate has compiled into other packages. A
// process has at most one.
package mutant

import (
	"cmp"
	"os"
	"strconv"
	"sync/atomic"
)

// Environment variables. Active is the number of the mutant that is on. Record names a file in
// which a byte is set for each mutant that would have made a difference.
const (
	Active = "MUTANT"
	Record = "MUTANT_RECORD"
)

var (
	active    = number(os.Getenv(Active))
	record    = open(os.Getenv(Record))
	recording = record != nil
	recorded  [1 << 16]atomic.Bool
)

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

func open(name string) *os.File {
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	return f
}

// On reports whether the mutant is on. It is called only where the mutant makes a difference
// to the next step.
func On(mutant int) bool { return active == mutant || recording && note(mutant) }

func note(mutant int) bool {
	if !recorded[mutant].Swap(true) {
		if _, err := record.WriteAt([]byte{1}, int64(mutant)); err != nil {
			panic(err)
		}
	}
	return false
}

// Is returns value, or other if the mutant is on.
func Is[T any](mutant int, value, other T) T {
	if On(mutant) {
		return other
	}
	return value
}

// Less is a < b, or a <= b if the mutant is on.
func Less[T cmp.Ordered](mutant int, a, b T) bool { return a < b || a == b && On(mutant) }

// LessEqual is a <= b, or a < b if the mutant is on.
func LessEqual[T cmp.Ordered](mutant int, a, b T) bool {
	return a <= b && !(a == b && On(mutant))
}

// Greater is a > b, or a >= b if the mutant is on.
func Greater[T cmp.Ordered](mutant int, a, b T) bool { return a > b || a == b && On(mutant) }

// GreaterEqual is a >= b, or a > b if the mutant is on.
func GreaterEqual[T cmp.Ordered](mutant int, a, b T) bool {
	return a >= b && !(a == b && On(mutant))
}

// A Number can be subtracted.
type Number interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr | ~float32 | ~float64
}

// Sum is a + b, or a - b if the mutant is on.
func Sum[T Number](mutant int, a, b T) T {
	if b != 0 && On(mutant) {
		return a - b
	}
	return a + b
}

// Difference is a - b, or a + b if the mutant is on.
func Difference[T Number](mutant int, a, b T) T {
	if b != 0 && On(mutant) {
		return a + b
	}
	return a - b
}

// Min is the lesser of a and b, or the greater if the mutant is on.
func Min[T cmp.Ordered](mutant int, a, b T) T {
	if a != b && On(mutant) {
		return max(a, b)
	}
	return min(a, b)
}

// Max is the greater of a and b, or the lesser if the mutant is on.
func Max[T cmp.Ordered](mutant int, a, b T) T {
	if a != b && On(mutant) {
		return min(a, b)
	}
	return max(a, b)
}
