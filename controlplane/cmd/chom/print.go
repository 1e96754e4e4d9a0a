package main

import "fmt"

// print shows what a command came to: value as JSON, or what text writes for people.
func (p *program) print(value any, _ []string, text func() error) error {
	if p.json() {
		return printJSON(p.out, value)
	}
	return text()
}

// say tells a person what they must know.
func (p *program) say(format string, args ...any) { fmt.Fprintf(p.err, format+"\n", args...) }

// column is one column of a table.
func column(rows [][]string, n int) []string {
	cells := make([]string, len(rows))
	for i, row := range rows {
		cells[i] = row[n]
	}
	return cells
}
