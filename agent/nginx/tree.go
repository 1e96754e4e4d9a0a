package nginx

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Directive is one node of a configuration: a name, its arguments, and for
// blocks what is inside. Arguments hold their meaning, not their spelling:
// quoting happens in render only.
//
// nginx itself expands $name in many arguments and offers no escape for it, so
// a value that came from outside may only be one whose type excludes "$".
type Directive struct {
	Name  string
	Args  []string
	Block []Directive // nil for a simple directive; empty but not nil for {}
}

// d makes a simple directive.
func d(name string, args ...string) Directive { return Directive{Name: name, Args: args} }

// block makes a directive with a block.
func block(name string, args []string, inside ...Directive) Directive {
	if inside == nil {
		inside = []Directive{}
	}
	return Directive{Name: name, Args: args, Block: inside}
}

// equal compares two trees by meaning.
func equal(a, b []Directive) bool {
	return slices.EqualFunc(a, b, func(x, y Directive) bool {
		return x.Name == y.Name && slices.Equal(x.Args, y.Args) && (x.Block == nil) == (y.Block == nil) && equal(x.Block, y.Block)
	})
}

// render writes the tree, reads it back and refuses what does not come back as
// it was meant.
func render(tree []Directive) ([]byte, error) {
	var b strings.Builder
	b.WriteString("# Written by chom-agent; changes are overwritten.\n")
	if err := printTo(&b, tree, 0); err != nil {
		return nil, err
	}
	back, err := parse([]byte(b.String()))
	if err != nil {
		return nil, fmt.Errorf("read back: %w", err)
	}
	if !equal(tree, back) {
		return nil, fmt.Errorf("read back: configuration reads differently than it was meant")
	}
	return []byte(b.String()), nil
}

func printTo(b *strings.Builder, tree []Directive, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("blocks are nested too deep")
	}
	for _, d := range tree {
		if !isName(d.Name) {
			return fmt.Errorf("directive name %q is not a word", d.Name)
		}
		b.WriteString(strings.Repeat("    ", depth))
		b.WriteString(d.Name)
		for _, a := range d.Args {
			q, err := quote(a)
			if err != nil {
				return fmt.Errorf("directive %s: %w", d.Name, err)
			}
			b.WriteString(" ")
			b.WriteString(q)
		}
		if d.Block == nil {
			b.WriteString(";\n")
			continue
		}
		b.WriteString(" {\n")
		if err := printTo(b, d.Block, depth+1); err != nil {
			return err
		}
		b.WriteString(strings.Repeat("    ", depth))
		b.WriteString("}\n")
	}
	return nil
}

func isName(s string) bool {
	return s != "" && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
	}) < 0
}

// plain are the characters that mean themselves outside of quotes.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=$@*^~+,-"

// quote is the one place that spells an argument. It refuses what no
// configuration of ours needs, rather than finding a spelling for it.
func quote(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("argument is not valid UTF-8")
	}
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' }) >= 0 {
		return "", fmt.Errorf("argument holds a control character")
	}
	if s != "" && strings.Trim(s, plain) == "" {
		return s, nil
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`, nil
}
