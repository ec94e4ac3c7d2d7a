// Package console has what the subcommands share: flags, help, tables, and text that fits 80
// columns.
package console

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// Width is the number of columns that output fits into.
const Width = 80

// Exit statuses of every subcommand.
const (
	OK      = 0 // done, or: a failover would work
	Failed  = 1 // refused, or: a failover would not work
	Unknown = 2 // failed, could not be determined, or a mistake on the command line
)

// A Command is the command line of a subcommand.
type Command struct {
	*flag.FlagSet
	operands, about string
	stdout, stderr  io.Writer
}

// NewCommand returns the command line "failover NAME [flags] OPERANDS". The text about
// describes the subcommand in paragraphs separated by blank lines; indented ones are printed
// unchanged.
func NewCommand(name, operands, about string, stdout, stderr io.Writer) *Command {
	c := &Command{
		FlagSet:  flag.NewFlagSet(name, flag.ContinueOnError),
		operands: operands, about: about, stdout: stdout, stderr: stderr,
	}
	c.SetOutput(io.Discard)
	return c
}

// Parse parses args, in which flags and operands may come in any order, and returns the
// operands. If ok is false, Parse has printed the help or what is wrong with a flag, and the
// process should exit with status.
func (c *Command) Parse(args []string) (operands []string, status int, ok bool) {
	for {
		switch err := c.FlagSet.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			c.help()
			return nil, OK, false
		case err != nil:
			return nil, c.Mistake("%v", err), false
		}
		rest := c.Args()
		if len(rest) == 0 {
			return operands, OK, true
		}
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			return append(operands, rest...), OK, true
		}
		operands, args = append(operands, rest[0]), rest[1:]
	}
}

// Mistake prints what is wrong with the command line and returns [Unknown].
func (c *Command) Mistake(format string, args ...any) int {
	fmt.Fprint(c.stderr, Wrap(fmt.Sprintf("failover %s: "+format, append([]any{c.Name()}, args...)...), ""))
	fmt.Fprintf(c.stderr, "\"failover %s -h\" lists the flags.\n", c.Name())
	return Unknown
}

// Fail prints why the subcommand failed and returns [Unknown].
func (c *Command) Fail(err error) int {
	fmt.Fprint(c.stderr, Wrap(fmt.Sprintf("failover %s: %v", c.Name(), err), ""))
	return Unknown
}

func (c *Command) help() {
	out := c.stdout
	fmt.Fprintf(out, "Usage: %s\n\n", strings.TrimSpace("failover "+c.Name()+" [flags] "+c.operands))
	for i, paragraph := range strings.Split(strings.Trim(c.about, "\n"), "\n\n") {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if strings.HasPrefix(paragraph, " ") {
			fmt.Fprintln(out, paragraph)
			continue
		}
		fmt.Fprint(out, Wrap(strings.Join(strings.Fields(paragraph), " "), ""))
	}
	fmt.Fprint(out, "\nFlags:\n")
	c.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		if d := f.DefValue; d != "" && d != "0" && d != "0s" && d != "false" && !strings.Contains(usage, "default") {
			usage += " (default " + d + ")"
		}
		fmt.Fprintf(out, "  %s\n", strings.TrimSpace("-"+f.Name+" "+value))
		fmt.Fprint(out, Wrap(usage, "      "))
	})
}

// Wrap breaks s into lines of at most [Width] columns that begin with indent. Every line ends
// with a line feed.
func Wrap(s, indent string) string {
	var b strings.Builder
	for _, line := range wrap(s, Width-len(indent)) {
		b.WriteString(strings.TrimRight(indent+line, " ") + "\n")
	}
	return b.String()
}

// Cell breaks the lines of s to fit a column, puts mark before the first, and indents the
// others by the width of mark.
func Cell(mark, s string, width int) string {
	indent := text.StringWidthWithoutEscSequences(mark)
	lines := wrap(s, width-indent)
	return mark + strings.Join(lines, "\n"+strings.Repeat(" ", indent))
}

// Clean replaces control characters other than line breaks, so that foreign text cannot
// control the terminal.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' || unicode.Is(unicode.Bidi_Control, r) {
			return '?'
		}
		return r
	}, s)
}

// wrap cleans s and breaks it into lines. It keeps existing breaks.
func wrap(s string, width int) []string {
	var lines []string
	s = Clean(s)
	for line := range strings.SplitSeq(strings.TrimRight(s, "\n"), "\n") {
		for part := range strings.SplitSeq(text.WrapSoft(line, width), "\n") {
			lines = append(lines, strings.TrimRight(part, " "))
		}
	}
	return lines
}

// Table returns a table with columns of the given widths. The texts must fit: see [Cell].
func Table(out io.Writer, header []string, widths ...int) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	style.Options = table.Options{SeparateColumns: true, SeparateHeader: true}
	t.SetStyle(style)
	columns := make([]table.ColumnConfig, len(widths))
	for i, width := range widths {
		columns[i] = table.ColumnConfig{Number: i + 1, WidthMin: width}
	}
	t.SetColumnConfigs(columns)
	if header != nil {
		t.AppendHeader(row(header))
	}
	return t
}

// Append adds a row of texts to a table.
func Append(t table.Writer, cells ...string) { t.AppendRow(row(cells)) }

func row(cells []string) table.Row {
	r := make(table.Row, len(cells))
	for i, c := range cells {
		r[i] = c
	}
	return r
}

// IsTerminal reports whether out is a terminal that supports control codes.
func IsTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// Progress is a line on a terminal that says what the command is waiting for. If the output
// is not a terminal, it shows nothing. It is not safe for concurrent use.
type Progress struct {
	out   io.Writer
	shown bool
}

// NewProgress returns a Progress on out, usually standard error.
func NewProgress(out io.Writer) *Progress {
	if !IsTerminal(out) {
		return &Progress{}
	}
	return &Progress{out: out}
}

// Show replaces the line.
func (p *Progress) Show(format string, args ...any) {
	if p.out != nil {
		fmt.Fprint(p.out, "\r\x1b[K"+text.Trim(fmt.Sprintf(format, args...), Width-1))
		p.shown = true
	}
}

// End removes the line.
func (p *Progress) End() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

// Duration formats d for people: "840 ms", "7.2 s", "3 min 12 s", "2 h 5 min".
func Duration(d time.Duration) string {
	if d.Round(time.Second) >= time.Minute {
		d = d.Round(time.Second)
	}
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case 0 < d && d < time.Millisecond:
		return "under 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
}

// Plural returns "1 write", "2 writes".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
