package link

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// textMax is the longest text that an agent gets in, in bytes. The limits in
// the proto files count characters.
const textMax = 4096

// clean makes all texts of a request harmless to whoever prints them: what
// controls terminals, breaks lines or turns the direction of writing is
// replaced, and no text is longer than textMax bytes. It works from the
// descriptors, so that a field that is added later is covered. Quoting for
// HTML or a shell remains with those who print.
func clean(m proto.Message) { cleanMessage(m.ProtoReflect()) }

func cleanMessage(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			cleanMap(field, value.Map())
		case field.IsList() && field.Kind() == protoreflect.StringKind:
			list := value.List()
			for i := range list.Len() {
				list.Set(i, protoreflect.ValueOfString(cleanText(list.Get(i).String())))
			}
		case field.IsList() && field.Message() != nil:
			list := value.List()
			for i := range list.Len() {
				cleanMessage(list.Get(i).Message())
			}
		case field.Message() != nil:
			cleanMessage(value.Message())
		case field.Kind() == protoreflect.StringKind:
			if text := value.String(); !harmless(text) {
				m.Set(field, protoreflect.ValueOfString(cleanText(text)))
			}
		}
		return true
	})
}

// cleanMap cleans the values; keys that are not harmless go, with their values.
func cleanMap(field protoreflect.FieldDescriptor, all protoreflect.Map) {
	all.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		switch {
		case field.MapKey().Kind() == protoreflect.StringKind && !harmless(key.String()):
			all.Clear(key)
		case field.MapValue().Message() != nil:
			cleanMessage(value.Message())
		case field.MapValue().Kind() == protoreflect.StringKind:
			all.Set(key, protoreflect.ValueOfString(cleanText(value.String())))
		}
		return true
	})
}

// harmless says whether cleanText would leave a text as it is.
func harmless(s string) bool {
	if len(s) > textMax || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if hostile(r) {
			return false
		}
	}
	return true
}

// hostile characters are those that do something instead of showing something.
func hostile(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r == 0x7f
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs)
}

func cleanText(s string) string {
	if harmless(s) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case hostile(r):
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
	if len(s) <= textMax {
		return s
	}
	cut := textMax
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// cleanTime gives the agent's time, or ours where it makes no sense: a clock
// that is off by a day is shown as it is off by nothing.
func cleanTime(t *timestamppb.Timestamp, now time.Time) *timestamppb.Timestamp {
	const eventLife = 30 * 24 * time.Hour // longer than a journal keeps what it has to tell
	if t.IsValid() {
		if at := t.AsTime(); at.After(now.Add(-eventLife)) && at.Before(now.Add(24*time.Hour)) {
			return t
		}
	}
	return timestamppb.New(now)
}
