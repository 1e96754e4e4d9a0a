package backup

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// scanner reads the tables' part of a dump while it is written, as the server would
// read it: what stands in a string, a name or a comment is no statement. It counts
// the rows of each table, and knows whether the dump has come to its end.
//
//	         '              `             -- or #          /*! (code inside)   /* (no code)
//	string <---- [ code ] ------> name     |                |                   |
//	               ^  |                    v                v                   v
//	               |  +------------------> line            versioned code      comment
//	               +-- each of them by its own end
//
// It accepts the statements that mariadb-dump writes of tables and no others:
// what it does not know is an error, never skipped.
type scanner struct {
	begin  func() // called at the first statement that is about a table
	tables []Table

	mode      mode
	escaped   bool   // the byte before was a backslash, in a string
	closing   bool   // the byte before was a quote, which another one makes a part of the name
	versioned bool   // inside of /*! */
	held      []byte // the beginning of what may become a comment or its end
	word      []byte
	name      []byte
	comment   []byte // of the line
	depth     int    // of parentheses
	statement []string
	table     int  // whose rows come, while counting
	counting  bool // after VALUES
	done      bool // the last that came is the mark of completion
	err       error
}

type mode byte

const (
	code mode = iota
	single
	double
	backtick
	line
	block
)

// statements are what each one may begin with, as mariadb-dump writes it of tables.
var statements = []string{"SET", "DROP", "CREATE", "LOCK", "UNLOCK", "ALTER", "INSERT", "DO", "SELECT", "COMMIT"}

const (
	maxName    = 64 * 4 // bytes of a name in MariaDB
	maxComment = 1024   // what is kept of one
)

// Write reads on. It keeps failing after an error.
func (s *scanner) Write(p []byte) (int, error) {
	for i := 0; i < len(p) && s.err == nil; i++ {
		if i += s.skip(p[i:]); i < len(p) {
			s.step(p[i])
		}
	}
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

// skip counts the bytes that change nothing, which nearly all of a dump is: in
// strings, and in rows what is no sign.
func (s *scanner) skip(p []byte) int {
	n := 0
	switch {
	case s.mode == single && !s.escaped:
		for n < len(p) && p[n] != '\'' && p[n] != '\\' {
			n++
		}
	case s.mode == code && s.counting && s.depth > 0 && !s.closing && len(s.held) == 0 && len(s.word) == 0:
		for n < len(p) && (p[n] == ',' || p[n] == '\n' || isWord(p[n])) {
			n++
		}
	}
	return n
}

func (s *scanner) step(c byte) {
	switch s.mode {
	case single, double:
		quote := byte('\'')
		if s.mode == double {
			quote = '"'
		}
		switch {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped = true
		case c == quote: // one that is doubled opens the next string at once
			s.mode = code
		}
	case backtick:
		if c == '`' {
			s.mode, s.closing = code, true
			return
		}
		s.addName(c)
	case line:
		if c == '\n' {
			s.mode = code
			s.done = string(s.comment) == " Dump completed" && len(s.statement) == 0
			return
		}
		if len(s.comment) < maxComment {
			s.comment = append(s.comment, c)
		}
	case block:
		if c == '/' && len(s.held) == 1 {
			s.mode = code
		}
		s.held = s.held[:0]
		if c == '*' && s.mode == block {
			s.held = append(s.held, c)
		}
	case code:
		s.code(c)
	}
}

func (s *scanner) addName(c byte) {
	if len(s.name) >= maxName {
		s.fail("a name is too long")
		return
	}
	s.name = append(s.name, c)
}

// code reads a byte outside of strings, names and comments.
func (s *scanner) code(c byte) {
	if s.closing {
		s.closing = false
		if c == '`' { // doubled: the name goes on
			s.mode = backtick
			s.addName(c)
			return
		}
		s.endName()
	}
	if len(s.held) > 0 && s.held2(c) {
		return
	}
	if isWord(c) {
		if len(s.word) < maxName {
			s.word = append(s.word, c)
		}
		return
	}
	s.endWord()
	switch c {
	case ' ', '\t', '\r', '\n':
		return
	case '-', '/', '*':
		s.held = append(s.held, c)
		return
	case '#':
		s.mode, s.comment = line, s.comment[:0]
		return
	}
	s.done = false
	switch c {
	case '\'':
		s.mode = single
	case '"':
		s.mode = double
	case '`':
		s.mode, s.name = backtick, s.name[:0]
	case '(':
		if s.depth == 0 && s.counting {
			s.tables[s.table].Rows++
		}
		s.depth++
	case ')':
		if s.depth--; s.depth < 0 {
			s.fail("a parenthesis is closed that was not opened")
		}
	case ';':
		if s.depth == 0 && !s.versioned {
			s.endStatement()
		}
	}
}

// held2 decides about what begins with -, / or *, and tells whether c was a part
// of it.
func (s *scanner) held2(c byte) bool {
	held := string(s.held)
	switch {
	case held == "-" && c == '-', held == "/" && c == '*', held == "/*" && c == 'M':
		s.held = append(s.held, c)
		return true
	case held == "--" && (c == ' ' || c == '\t' || c == '\n'):
		s.held, s.mode, s.comment = s.held[:0], line, append(s.comment[:0], c)
		if c == '\n' {
			s.step(c) // it is empty
		}
		return true
	case held == "/*" && c == '!' && !s.versioned:
		s.held, s.versioned, s.done = s.held[:0], true, false
		return true
	case held == "/*", held == "/*M":
		s.held, s.mode = s.held[:0], block
		s.step(c)
		return true
	case held == "*" && c == '/':
		s.held = s.held[:0]
		if !s.versioned {
			s.fail("a comment ends that has not begun")
		}
		s.versioned = false
		return true
	}
	s.held, s.done = s.held[:0], false // signs of arithmetic
	return false
}

func isWord(c byte) bool {
	return c == '_' || c == '@' || c == '.' || c == '$' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// endWord takes in a word. Of a statement the first ones say what it is; the number
// of a versioned comment is none.
func (s *scanner) endWord() {
	if len(s.word) == 0 {
		return
	}
	w := string(bytes.ToUpper(s.word))
	s.word, s.done = s.word[:0], false
	if len(s.statement) == 0 {
		if _, err := strconv.Atoi(w); err == nil && s.versioned {
			return
		}
		if !slices.Contains(statements, w) {
			s.fail(fmt.Sprintf("there is a statement %.20q", w))
			return
		}
		if w != "SET" && s.begin != nil {
			s.begin()
		}
	}
	if w == "VALUES" && s.depth == 0 && s.is("INSERT", "INTO", name) {
		s.counting = true
	}
	s.add(w)
}

// name stands in a statement for a name in backticks.
const name = "`"

func (s *scanner) endName() {
	if len(s.statement) == 0 {
		s.fail("a statement begins with a name")
		return
	}
	n := string(s.name)
	switch {
	case s.only("CREATE", "TABLE"), s.only("CREATE", "SEQUENCE"):
		if s.find(n) >= 0 {
			s.fail("a table comes twice")
			return
		}
		s.tables = append(s.tables, Table{Name: n})
	case s.only("INSERT", "INTO"):
		if s.table = s.find(n); s.table < 0 {
			s.fail("there are rows of a table that is not there")
			return
		}
	}
	s.add(name)
}

// find looks from the end: rows follow their table.
func (s *scanner) find(n string) int {
	for i := len(s.tables) - 1; i >= 0; i-- {
		if s.tables[i].Name == n {
			return i
		}
	}
	return -1
}

// add keeps the beginning of a statement.
func (s *scanner) add(w string) {
	if len(s.statement) < 4 {
		s.statement = append(s.statement, w)
	}
}

func (s *scanner) only(words ...string) bool { return slices.Equal(s.statement, words) }

func (s *scanner) is(words ...string) bool {
	return len(s.statement) >= len(words) && slices.Equal(s.statement[:len(words)], words)
}

func (s *scanner) endStatement() {
	s.statement, s.counting = s.statement[:0], false
}

func (s *scanner) fail(why string) {
	if s.err == nil {
		s.err = errors.New("the dump cannot be understood: " + why)
	}
}

// end says whether all of the dump was there.
func (s *scanner) end() error {
	switch {
	case s.err != nil:
		return s.err
	case s.mode != code, s.closing, s.versioned, s.depth != 0, len(s.held) > 0, len(s.word) > 0, len(s.statement) > 0, !s.done:
		return errCut
	}
	return nil
}
