package sitelog

import (
	"bytes"
	"time"
)

// accessTime is when nginx answered, by a line in the format chom (agent/nginx/base.go): in the brackets before the first quote, which
// no visitor can write bare. Zero is for what is no such line.
func accessTime(line []byte) time.Time {
	before, _, _ := bytes.Cut(line, []byte(`] "`))
	at, err := time.Parse("02/Jan/2006:15:04:05 -0700", string(before[bytes.LastIndexByte(before, '[')+1:]))
	if err != nil {
		return time.Time{}
	}
	return at
}

// errorTime is when nginx found something wrong, in the host's zone.
func errorTime(line []byte) time.Time {
	const form = "2006/01/02 15:04:05"
	if len(line) < len(form) {
		return time.Time{}
	}
	at, err := time.ParseInLocation(form, string(line[:len(form)]), time.Local)
	if err != nil {
		return time.Time{}
	}
	return at
}
