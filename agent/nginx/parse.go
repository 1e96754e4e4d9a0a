package nginx

import (
	"fmt"
)

// maxDepth bounds nested blocks; nginx's own configurations need five.
const maxDepth = 32

// parse reads a configuration by nginx's rules: comments, quotes, escapes,
// ${name}. Includes are left as directives. Blocks in another language (lua)
// are not understood.
func parse(text []byte) ([]Directive, error) {
	p := parser{text: text, line: 1}
	tree, err := p.block(0)
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", p.line, err)
	}
	return tree, nil
}

type parser struct {
	text []byte
	pos  int
	line int
}

// block reads directives up to the closing brace of the given depth, or to
// the end of the text at depth 0.
func (p *parser) block(depth int) ([]Directive, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("blocks are nested too deep")
	}
	tree := []Directive{}
	var words []string
	for {
		word, end, err := p.token()
		if err != nil {
			return nil, err
		}
		if end == 0 {
			words = append(words, word)
			continue
		}
		switch {
		case end == ';' && len(words) > 0:
			tree = append(tree, Directive{Name: words[0], Args: words[1:]})
		case end == '{' && len(words) > 0:
			inside, err := p.block(depth + 1)
			if err != nil {
				return nil, err
			}
			tree = append(tree, Directive{Name: words[0], Args: words[1:], Block: inside})
		case end == '}' && len(words) == 0 && depth > 0:
			return tree, nil
		case end == eof && len(words) == 0 && depth == 0:
			return tree, nil
		default:
			return nil, fmt.Errorf("unexpected %s", names[end])
		}
		words = nil
	}
}

const eof = 'E'

var names = map[byte]string{';': `";"`, '{': `"{"`, '}': `"}"`, eof: "end of file"}

// token gives the next word, or what ends a directive.
func (p *parser) token() (word string, end byte, err error) {
	p.skip()
	if p.pos == len(p.text) {
		return "", eof, nil
	}
	switch c := p.text[p.pos]; c {
	case ';', '{', '}':
		p.pos++
		return "", c, nil
	case '"', '\'':
		p.pos++
		return p.quoted(c)
	default:
		return p.unquoted()
	}
}

func (p *parser) skip() {
	for p.pos < len(p.text) {
		switch c := p.text[p.pos]; {
		case isSpace(c):
			p.advance()
		case c == '#':
			for p.pos < len(p.text) && p.text[p.pos] != '\n' {
				p.pos++
			}
		default:
			return
		}
	}
}

func (p *parser) quoted(q byte) (string, byte, error) {
	var out []byte
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		if c == q {
			p.pos++
			if p.pos < len(p.text) && !isSpace(p.text[p.pos]) && !isOneOf(p.text[p.pos], ";{)") {
				return "", 0, fmt.Errorf("a quoted word must end at its quote")
			}
			return string(out), 0, nil
		}
		out = p.take(out)
	}
	return "", 0, fmt.Errorf("a quote is not closed")
}

func (p *parser) unquoted() (string, byte, error) {
	var out []byte
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		if c == '$' && p.pos+1 < len(p.text) && p.text[p.pos+1] == '{' {
			out = append(out, '$', '{') // a brace that opens no block
			p.pos += 2
			continue
		}
		if isSpace(c) || c == ';' || c == '{' {
			break
		}
		out = p.take(out)
	}
	return string(out), 0, nil
}

// take copies one character, resolving the escapes that nginx resolves; a
// backslash before anything else stays.
func (p *parser) take(out []byte) []byte {
	c := p.text[p.pos]
	if c == '\\' && p.pos+1 < len(p.text) {
		next := p.text[p.pos+1]
		p.advance()
		p.advance()
		switch next {
		case '"', '\'', '\\':
			return append(out, next)
		case 't':
			return append(out, '\t')
		case 'r':
			return append(out, '\r')
		case 'n':
			return append(out, '\n')
		default:
			return append(out, '\\', next)
		}
	}
	p.advance()
	return append(out, c)
}

func (p *parser) advance() {
	if p.text[p.pos] == '\n' {
		p.line++
	}
	p.pos++
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func isOneOf(c byte, set string) bool {
	for i := 0; i < len(set); i++ {
		if c == set[i] {
			return true
		}
	}
	return false
}
