package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the outcome of a whole run.
type report struct {
	Machine machine   `json:"machine"`
	Time    time.Time `json:"time"`
	Figures []row     `json:"figures"`
	Failed  []failure `json:"failed"`
}

// failure is a figure that could not be measured.
type failure struct {
	Figure string `json:"figure"`
	Error  string `json:"error"`
}

func newReport() *report {
	return &report{Machine: thisMachine(), Time: time.Now().UTC(), Figures: []row{}, Failed: []failure{}}
}

func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n", r.Machine)
	if r.Machine.busy() {
		fmt.Fprintln(w, "Others were at work on this machine: what they took is in the figures.")
	}
	fmt.Fprintf(w, "A value is the statistic named beside it of that many runs; its comparison is the same statistic, taken in turns in the same run.\n\n")
	var table bytes.Buffer
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tNAME\tVALUE\tUNIT\tBAR\tVERDICT\tOF\tCOMPARED WITH\tVALUE\tRATIO\tBAR")
	for _, row := range r.Figures {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t", row.Figure, row.Name, number(row.Value), row.Unit, row.Bar, row.Verdict, row.of())
		if c := row.Comparison; c != nil {
			fmt.Fprintf(t, "%s\t%s\t%.2f\t%s", c.With, number(c.Value), c.Ratio, c.Bar)
		} else {
			fmt.Fprint(t, "\t\t\t")
		}
		fmt.Fprintln(t)
	}
	for _, f := range r.Failed {
		fmt.Fprintf(t, "%s\tnot measured to its end\n", f.Figure)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for l := range strings.Lines(table.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(l, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) write(file string) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // "<=" is for people, too
	if err := e.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}

// of tells what the value is of its runs.
func (r row) of() string {
	if r.Runs == 1 {
		return r.Statistic
	}
	return fmt.Sprintf("%s of %d", r.Statistic, r.Runs)
}

func (b *bar) String() string {
	if b == nil {
		return ""
	}
	return b.Relation + " " + strconv.FormatFloat(b.Limit, 'f', -1, 64)
}

// number shows three digits, or all before the point.
func number(v float64) string {
	switch {
	case v == float64(int64(v)):
		return strconv.FormatInt(int64(v), 10)
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v >= 0.1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}
