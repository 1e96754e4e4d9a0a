package contract

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ObjectsMark is the line of a backup's dump after which come views, triggers and
// routines: what is before it are tables alone, that a restore can rename.
const ObjectsMark = "-- chom: objects\n"

// MaxObjects is how much SQL of views, triggers and routines a dump may have: real
// sites have kilobytes. One with more is in no backup.
const MaxObjects = 4 << 20

// DumpCompleted is how each part of a dump ends.
const DumpCompleted = "\n-- Dump completed\n"

// ErrDumpCut says that a dump has not come to its end.
var ErrDumpCut = errors.New("the dump breaks off")

// DumpTable is one table of a dump.
type DumpTable struct {
	Name string `json:"name"`
	Rows uint64 `json:"rows"`
}

// DumpScanner reads the tables' part of a dump while it is written, as the server would
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
// what it does not know is an error, never skipped. The zero value is ready.
type DumpScanner struct {
	// Begin is called at the first statement that is about a table; nil for nothing.
	Begin func()
	// Foreign says that the dump is not an agent's, which asks for tables alone and
	// compares them with those that the server has. Then its end may have a date, and
	// each statement that makes something or adds rows has to be one that is counted.
	Foreign bool

	tables []DumpTable

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
	window     = 128    // bytes of a string that are looked at for its end before they are for a backslash
)

// Tables are those that came, with their rows.
func (s *DumpScanner) Tables() []DumpTable { return s.tables }

// Write reads on. It keeps failing after an error.
func (s *DumpScanner) Write(p []byte) (int, error) {
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
func (s *DumpScanner) skip(p []byte) int {
	n := 0
	switch {
	case s.mode == single && !s.escaped:
		for n < len(p) {
			part := p[n:min(n+window, len(p))]
			quote := bytes.IndexByte(part, '\'')
			if quote >= 0 {
				part = part[:quote]
			}
			if slash := bytes.IndexByte(part, '\\'); slash >= 0 {
				return n + slash
			}
			n += len(part)
			if quote >= 0 {
				return n
			}
		}
	case s.mode == code && s.counting && s.depth > 0 && !s.closing && len(s.held) == 0 && len(s.word) == 0:
		for n < len(p) && (p[n] == ',' || p[n] == '\n' || isWord(p[n])) {
			n++
		}
	}
	return n
}

func (s *DumpScanner) step(c byte) {
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
			s.done = s.completes(string(s.comment)) && len(s.statement) == 0
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

// completes says whether a comment is the mark of completion.
func (s *DumpScanner) completes(comment string) bool {
	const mark = " Dump completed"
	return comment == mark || s.Foreign && strings.HasPrefix(comment, mark+" on ")
}

func (s *DumpScanner) addName(c byte) {
	if len(s.name) >= maxName {
		s.fail("a name is too long")
		return
	}
	s.name = append(s.name, c)
}

// code reads a byte outside of strings, names and comments.
func (s *DumpScanner) code(c byte) {
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
func (s *DumpScanner) held2(c byte) bool {
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
func (s *DumpScanner) endWord() {
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
		if w != "SET" && s.Begin != nil {
			s.Begin()
		}
	}
	if s.Foreign && !s.counts(w) {
		return
	}
	if w == "VALUES" && s.depth == 0 && s.is("INSERT", "INTO", quoted) {
		s.counting = true
	}
	s.add(w)
}

// counts refuses the words of a foreign dump by which something would be made or
// added that is not counted, and by which a client would be told something.
func (s *DumpScanner) counts(w string) bool {
	switch {
	case s.only("CREATE") && w != "TABLE" && w != "SEQUENCE":
		s.fail(fmt.Sprintf("it makes something else than tables (CREATE %.20s): dump without views, triggers, routines and databases", w))
	case s.only("INSERT") && w != "INTO", s.only("CREATE", "TABLE"), s.only("INSERT", "INTO"):
		s.fail(fmt.Sprintf("there is a statement %.40q: only CREATE TABLE and INSERT INTO with names in backticks are known", strings.Join(append(s.statement, w), " ")))
	}
	return s.err == nil
}

// quoted stands in a statement for a name in backticks.
const quoted = "`"

func (s *DumpScanner) endName() {
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
		s.tables = append(s.tables, DumpTable{Name: n})
	case s.only("INSERT", "INTO"):
		if s.table = s.find(n); s.table < 0 {
			s.fail("there are rows of a table that is not there")
			return
		}
	}
	s.add(quoted)
}

// find looks from the end: rows follow their table.
func (s *DumpScanner) find(n string) int {
	for i := len(s.tables) - 1; i >= 0; i-- {
		if s.tables[i].Name == n {
			return i
		}
	}
	return -1
}

// add keeps the beginning of a statement.
func (s *DumpScanner) add(w string) {
	if len(s.statement) < 4 {
		s.statement = append(s.statement, w)
	}
}

func (s *DumpScanner) only(words ...string) bool { return slices.Equal(s.statement, words) }

func (s *DumpScanner) is(words ...string) bool {
	return len(s.statement) >= len(words) && slices.Equal(s.statement[:len(words)], words)
}

func (s *DumpScanner) endStatement() {
	s.statement, s.counting = s.statement[:0], false
}

func (s *DumpScanner) fail(why string) {
	if s.err == nil {
		s.err = errors.New("the dump cannot be understood: " + why)
	}
}

// End says whether all of the dump was there: ErrDumpCut where it was not.
func (s *DumpScanner) End() error {
	switch {
	case s.err != nil:
		return s.err
	case s.mode != code, s.closing, s.versioned, s.depth != 0, len(s.held) > 0, len(s.word) > 0, len(s.statement) > 0, !s.done:
		return ErrDumpCut
	}
	return nil
}
