package systemd

import (
	"fmt"
	"slices"
	"strings"

	"chom.dev/agent/run"
)

// Unit is a unit file as a tree. Its settings are run.Property values, so the
// wall around transient and lasting processes of a site is one list.
type Unit struct {
	Name     string // with its type, e.g. "chom-php-abcdefgh27.service"
	Sections []Section
}

// Section is one [Name] block.
type Section struct {
	Name     string
	Settings []run.Property
}

// Argv writes a command for ExecStart and its relatives so that systemd starts
// exactly this program with exactly these arguments: quoted, and with its own
// expansion of % and $ switched off.
func Argv(path string, args ...string) string {
	out := []string{Literal(path)}
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$")
	for _, a := range args {
		out = append(out, `"`+escape.Replace(a)+`"`)
	}
	return strings.Join(out, " ")
}

// Literal switches off systemd's specifiers in a value.
func Literal(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// text prints the unit, reads the print back and refuses anything that does
// not come back as it was meant.
func (u Unit) text() ([]byte, error) {
	var b strings.Builder
	b.WriteString("# Written by chom-agent; changes are overwritten.\n")
	for _, s := range u.Sections {
		if !word(s.Name) {
			return nil, fmt.Errorf("unit %s: section %q is not a word", u.Name, s.Name)
		}
		fmt.Fprintf(&b, "\n[%s]\n", s.Name)
		for _, p := range s.Settings {
			if err := checkSetting(p); err != nil {
				return nil, fmt.Errorf("unit %s: %w", u.Name, err)
			}
			fmt.Fprintf(&b, "%s=%s\n", p.Key, p.Value)
		}
	}
	back, err := parse(b.String())
	if err != nil {
		return nil, fmt.Errorf("unit %s: read back: %w", u.Name, err)
	}
	if !slices.EqualFunc(back, u.Sections, func(a, b Section) bool {
		return a.Name == b.Name && slices.Equal(a.Settings, b.Settings)
	}) {
		return nil, fmt.Errorf("unit %s: reads back differently", u.Name)
	}
	return []byte(b.String()), nil
}

func word(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') }) < 0
}

// checkSetting refuses rather than escapes: a unit file has lines, and a
// trailing backslash joins two of them.
func checkSetting(p run.Property) error {
	if !word(p.Key) {
		return fmt.Errorf("setting %q is not a word", p.Key)
	}
	if strings.IndexFunc(p.Value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) >= 0 {
		return fmt.Errorf("setting %s holds a control character or invalid UTF-8", p.Key)
	}
	if strings.HasSuffix(p.Value, `\`) {
		return fmt.Errorf("setting %s ends with a backslash", p.Key)
	}
	if strings.TrimSpace(p.Value) != p.Value {
		return fmt.Errorf("setting %s starts or ends with a space", p.Key)
	}
	return nil
}

// parse reads what text prints, by systemd's rules: comments, sections, lines
// joined by a backslash at their end.
func parse(s string) ([]Section, error) {
	var out []Section
	joined := ""
	for line := range strings.Lines(s) {
		line = joined + strings.TrimSuffix(line, "\n")
		joined = ""
		if rest, ok := strings.CutSuffix(line, `\`); ok {
			joined = rest + " "
			continue
		}
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[' && line[len(line)-1] == ']':
			out = append(out, Section{Name: line[1 : len(line)-1]})
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || len(out) == 0 {
				return nil, fmt.Errorf("line %q is neither a section nor a setting of one", line)
			}
			last := &out[len(out)-1]
			last.Settings = append(last.Settings, run.Property{Key: strings.TrimSpace(key), Value: strings.TrimSpace(value)})
		}
	}
	if joined != "" {
		return nil, fmt.Errorf("ends in the middle of a line")
	}
	return out, nil
}
