package telemetry

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"syscall"
)

// request is a line of nginx's access log in the format chom (agent/nginx/base.go).
type request struct {
	local   bool // it came from this host: our own look at the home page, or the site's own cron
	status  int
	bytes   uint64
	seconds float64
}

// parseRequest reads a line without its end. Visitors choose much of it, but no quote of theirs is a bare one: nginx writes them as \".
func parseRequest(line []byte) (request, bool) {
	var r request
	begin := quote(line)
	if begin < 0 {
		return r, false
	}
	address, _, _ := bytes.Cut(line[:begin], []byte(" "))
	r.local = string(address) == "127.0.0.1" || string(address) == "::1"
	rest := line[begin+1:]
	end := quote(rest)
	if end < 0 {
		return r, false
	}
	fields := bytes.Fields(rest[end+1:])
	if len(fields) < 2 {
		return r, false
	}
	status, err := strconv.Atoi(string(fields[0]))
	if err != nil || status < 100 || status > 599 {
		return r, false
	}
	sent, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return r, false
	}
	last := line[bytes.LastIndexByte(line, ' ')+1:]
	seconds, err := strconv.ParseFloat(string(last), 64)
	if err != nil || math.IsNaN(seconds) || seconds < 0 || seconds > maxSeconds {
		return r, false
	}
	r.status, r.bytes, r.seconds = status, sent, seconds
	return r, true
}

// maxSeconds is far above what nginx lets a request take; it keeps Inf out.
const maxSeconds = 1e6

// quote is where the first quote that nothing escapes is; -1 where there is none.
func quote(line []byte) int {
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// position is how far a file was read. The number tells a file from the one that took its name.
type position struct {
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"`
}

// bookmark is how far a log was read, and the one before it: nginx's former workers write on in that for a while after it was
// rotated away.
type bookmark struct {
	Now    position `json:"now"`
	Former position `json:"former"`
}

// maxRead is how much of one log is read at a time; a site with more to log than that in a minute is read more of the next time.
const maxRead = 16 << 20

// maxLine is what of a line is looked at; longer ones are passed over. nginx takes requests of up to 8 KiB a line.
const maxLine = 64 << 10

// read calls take for each new line of a log, path or, once rotated, path.1, and moves the bookmark behind it. A log that was never
// read before is read from its end: what is in it happened before anybody counted. What was rotated twice since the last time, or
// is packed by now, is lost.
func (b *bookmark) read(path string, take func([]byte)) error {
	now, err := inode(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // between a rename and a create, or a site that was never served
	}
	if err != nil {
		return err
	}
	if b.Now.Inode != 0 && b.Now.Inode != now.Inode {
		b.Former, b.Now = b.Now, position{Inode: now.Inode}
	}
	if b.Former.Inode != 0 {
		if former, err := inode(path + ".1"); err != nil || former.Inode != b.Former.Inode {
			b.Former = position{} // packed, or gone
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

// inode is a file's number and its size.
func inode(path string) (position, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return position{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return position{}, &fs.PathError{Op: "read", Path: path, Err: fs.ErrInvalid}
	}
	return position{stat.Ino, info.Size()}, nil
}

// read goes on in a file, up to maxRead and the last whole line.
func (p *position) read(path string, take func([]byte)) error {
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
	if _, err := file.Seek(p.Offset, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewReaderSize(io.LimitReader(file, maxRead), maxLine)
	long := int64(0) // bytes of a line that is too long
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long += int64(len(line))
		case errors.Is(err, io.EOF):
			if long+int64(len(line)) >= maxRead {
				p.Offset += maxRead // one endless line: it is passed over in parts
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
