// Package logfile reads logs that grow and are rotated meanwhile: path is renamed to path.1, and a new path is made.
package logfile

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Position is how far a file was read. The number tells a file from the one that took its name.
type Position struct {
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"`
}

// Bookmark is how far a log was read, and the one before it: nginx's former workers write on in that for a while after it was
// rotated away.
type Bookmark struct {
	Now    Position `json:"now"`
	Former Position `json:"former"`
}

// MaxRead is how much of one log is read at a time; a site with more to log than that in a minute is read more of the next time.
const MaxRead = 16 << 20

// MaxLine is what of a line is looked at; longer ones are passed over. nginx takes requests of up to 8 KiB a line.
const MaxLine = 64 << 10

// Read calls take for each new line of a log, path or, once rotated, path.1, and moves the bookmark behind it. A log that was never
// read before is read from its end: what is in it happened before anybody counted. What was rotated twice since the last time, or
// is packed by now, is lost.
func (b *Bookmark) Read(path string, take func([]byte)) error {
	now, err := inode(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // between a rename and a create, or a site that was never served
	}
	if err != nil {
		return err
	}
	if b.Now.Inode != 0 && b.Now.Inode != now.Inode {
		b.Former, b.Now = b.Now, Position{Inode: now.Inode}
	}
	if b.Former.Inode != 0 {
		if former, err := inode(path + ".1"); err != nil || former.Inode != b.Former.Inode {
			b.Former = Position{} // packed, or gone
		} else if err := b.Former.read(path+".1", take); err != nil {
			return err
		}
	}
	if b.Now.Inode == 0 {
		b.Now = now
		return nil
	}
	return b.Now.read(path, take)
}

// tailBytes is how much of the end of a file Tail looks at.
const tailBytes = 128 << 10

// Tail gives the last lines of a log, at most so many, and the bookmark behind them. Without a log there are neither: a bookmark that
// was never anywhere.
func Tail(path string, most int) (lines [][]byte, b Bookmark, err error) {
	if lines, b.Now, err = tail(path, most); err != nil || b.Now.Inode == 0 {
		return nil, Bookmark{}, err
	}
	if b.Now.Offset > tailBytes {
		most = 0 // there are lines in between
	}
	former, at, err := tail(path+".1", most-len(lines))
	if err != nil {
		return nil, Bookmark{}, err
	}
	b.Former = at
	return append(former, lines...), b, nil
}

// tail is Tail of one file.
func tail(path string, most int) ([][]byte, Position, error) {
	at, err := inode(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Position{}, nil
	}
	if err != nil {
		return nil, at, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, at, err
	}
	defer file.Close() //nolint:errcheck // read-only
	from := max(at.Offset-tailBytes, 0)
	text, err := io.ReadAll(io.NewSectionReader(file, from, at.Offset-from))
	if err != nil {
		return nil, at, err
	}
	at.Offset = from + int64(bytes.LastIndexByte(text, '\n')+1)
	lines := bytes.Split(text, []byte("\n"))
	lines = lines[:len(lines)-1] // what has no end yet is read later
	if from > 0 && len(lines) > 0 {
		lines = lines[1:] // it began before
	}
	return lines[max(len(lines)-max(most, 0), 0):], at, nil
}

// inode is a file's number and its size.
func inode(path string) (Position, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Position{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return Position{}, &fs.PathError{Op: "read", Path: path, Err: fs.ErrInvalid}
	}
	return Position{stat.Ino, info.Size()}, nil
}

// read goes on in a file, up to MaxRead and the last whole line.
func (p *Position) read(path string, take func([]byte)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // read-only
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < p.Offset {
		p.Offset = 0 // somebody emptied it
	}
	if info.Size() == p.Offset {
		return nil
	}
	if _, err := file.Seek(p.Offset, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewReaderSize(io.LimitReader(file, MaxRead), MaxLine)
	long := int64(0) // bytes of a line that is too long
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long += int64(len(line))
		case errors.Is(err, io.EOF):
			if long+int64(len(line)) >= MaxRead {
				p.Offset += MaxRead // one endless line: it is passed over in parts
			}
			return nil
		case err != nil:
			return err
		default:
			if long == 0 {
				take(line[:len(line)-1])
			}
			p.Offset += long + int64(len(line))
			long = 0
		}
	}
}
