package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"
)

// plain makes a text safe for a terminal: names, titles and messages come from hosts and from strangers, and an escape code
// in one must not move anybody's cursor. It becomes one line.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		if unicode.IsSpace(r) {
			return ' '
		}
		return '\uFFFD'
	}, s)
}

// print shows what a command came to: value as JSON or YAML, the names or ids alone with --quiet, or what text writes for people.
// Changes have no names: with --quiet, their exit code is all they say.
func (p *program) print(value any, names []string, text func() error) error {
	switch {
	case p.format != "table":
		return p.printData(value)
	case p.quiet:
		for _, name := range names {
			if _, err := fmt.Fprintln(p.out, plain(name)); err != nil {
				return err
			}
		}
		return nil
	}
	return text()
}

// printData writes one message, a list of them or other data as -o says, in the names that REST has.
func (p *program) printData(value any) error {
	text, err := marshal(value)
	if err != nil {
		return fmt.Errorf("print as %s: %w", p.format, err)
	}
	return p.printRaw(text)
}

// printOne writes a message of a stream that has no end as -o says: a line of JSON, or a document of YAML.
func (p *program) printOne(value proto.Message) error {
	text, err := marshal(value)
	if err != nil {
		return fmt.Errorf("print as %s: %w", p.format, err)
	}
	if p.format == "yaml" {
		if _, err := fmt.Fprintln(p.out, "---"); err != nil {
			return err
		}
		return p.printRaw(text)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = p.out.Write(out.Bytes())
	return err
}

// printRaw writes JSON as -o says: laid out, or as YAML.
func (p *program) printRaw(text []byte) error {
	var out bytes.Buffer
	if p.format == "yaml" {
		converted, err := yaml.JSONToYAML(text)
		if err != nil {
			return fmt.Errorf("print as YAML: %w", err)
		}
		out.Write(converted)
	} else {
		if err := json.Indent(&out, bytes.TrimSpace(text), "", "  "); err != nil {
			return fmt.Errorf("print as JSON: %w", err)
		}
		out.WriteByte('\n')
	}
	_, err := p.out.Write(out.Bytes())
	return err
}

func marshal(value any) ([]byte, error) {
	switch value := value.(type) {
	case proto.Message:
		return protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(value)
	case []proto.Message:
		parts := make([]json.RawMessage, len(value))
		for i, message := range value {
			part, err := marshal(message)
			if err != nil {
				return nil, err
			}
			parts[i] = part
		}
		return json.Marshal(parts)
	}
	return json.Marshal(value)
}

// list makes the messages of one type printable.
func list[M proto.Message](messages []M) []proto.Message {
	out := make([]proto.Message, len(messages))
	for i, m := range messages {
		out[i] = m
	}
	return out
}

// column is one column of a table.
func column(rows [][]string, n int) []string {
	cells := make([]string, len(rows))
	for i, row := range rows {
		cells[i] = row[n]
	}
	return cells
}

// printTable writes rows in columns under a heading.
func printTable(w io.Writer, heading []string, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, strings.Join(heading, "\t"))
	for _, row := range rows {
		for i := range row {
			row[i] = plain(row[i])
			if row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

// printFields writes one thing, a line for each of its fields that is not empty.
func printFields(w io.Writer, fields [][2]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, field := range fields {
		if field[1] != "" {
			fmt.Fprintf(table, "%s:\t%s\n", field[0], plain(field[1]))
		}
	}
	return table.Flush()
}

// short is an enum value in words: STATE_TIMED_OUT is "timed out".
func short(value fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(value.String(), prefix), "_", " "))
}

func at(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05")
}

func since(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	d := now.Sub(t.AsTime())
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d d", int(d.Hours()/24))
	}
}

func bytesText(n uint64) string {
	if n == 0 {
		return ""
	}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(byteUnits)-1 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.4g %s", value, byteUnits[unit])
}

var byteUnits = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
