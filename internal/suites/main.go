// Command suites runs the tests of net/http, and of libraries built on it, twice: unchanged,
// and with a failover.Transport between their clients and each *http.Transport. The results
// must be the same; docs/reliability.md explains every difference.
//
//	GOWORK=off go run .                  # about an hour
//	GOWORK=off go run . -only oauth2     # the suites whose names match
//	GOWORK=off go run . -race            # with the race detector
//	GOWORK=off go run . -keep            # keep the working directory
//
// It works in a copy of GOROOT whose net/http has a hook that wraps each *http.Transport.
// Tests that need another machine are skipped. The libraries come from the module proxy.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	only := flag.String("only", "", "`regexp` that the names of the suites must match")
	keep := flag.Bool("keep", false, "keep the working directory")
	repeats := flag.Int("repeats", 3, "how often to repeat a test whose result differs, in every mode")
	race := flag.Bool("race", false, "detect data races")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, regexp.MustCompile(*only), *keep, *race, *repeats); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, only *regexp.Regexp, keep, race bool, repeats int) error {
	dir, err := os.MkdirTemp("", "suites-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Println("working in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	tree, err := newToolchain(ctx, filepath.Join(dir, "goroot"))
	if err != nil {
		return fmt.Errorf("copying the toolchain: %w", err)
	}
	r := runner{toolchain: tree, dir: dir, race: race, repeats: repeats}
	for _, s := range suites {
		if !only.MatchString(s.name) {
			continue
		}
		began := time.Now()
		if err := r.run(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("(%s: %v)\n", s.name, time.Since(began).Round(time.Second))
	}
	r.print(os.Stdout)
	return nil
}
