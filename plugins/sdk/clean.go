package sdk

import "strings"

// clean makes text from an untrusted process fit for logs, terminals and
// databases: at most limit bytes of valid UTF-8, everything unprintable
// replaced, line breaks as spaces.
func clean(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unprintable(r):
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	if cut {
		s += "..."
	}
	return s
}
