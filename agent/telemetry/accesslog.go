package telemetry

import (
	"bytes"
	"math"
	"strconv"
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
