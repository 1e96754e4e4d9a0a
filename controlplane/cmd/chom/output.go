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

// printJSON writes one message, or a list of them, as indented JSON in the API's own names.
func printJSON(w io.Writer, value any) error {
	var text []byte
	var err error
	switch value := value.(type) {
	case proto.Message:
		text, err = marshal(value)
	case []proto.Message:
		parts := make([]json.RawMessage, len(value))
		for i, message := range value {
			if parts[i], err = marshal(message); err != nil {
				break
			}
		}
		if err == nil {
			text, err = json.Marshal(parts)
		}
	case map[string]proto.Message:
		parts := make(map[string]json.RawMessage, len(value))
		for name, message := range value {
			if parts[name], err = marshal(message); err != nil {
				break
			}
		}
		if err == nil {
			text, err = json.Marshal(parts)
		}
	default:
		text, err = json.Marshal(value)
	}
	if err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

func marshal(m proto.Message) ([]byte, error) {
	return protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
}

// list makes the messages of one type printable.
func list[M proto.Message](messages []M) []proto.Message {
	out := make([]proto.Message, len(messages))
	for i, m := range messages {
		out[i] = m
	}
	return out
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
