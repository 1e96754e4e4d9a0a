package rest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// asJSON says what JSON looks like here. appendMessage writes the same in a fraction of the time, which is most of what a page of
// a list costs; a test holds it to this one.
var asJSON = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}

// member is a field of a message as JSON names it.
type member struct {
	protoreflect.FieldDescriptor
	name     string // with its quotes and colon
	presence bool   // left out while it is unset
}

// members are the fields of message types that were written before, by protoreflect.MessageDescriptor.
var members sync.Map

func membersOf(d protoreflect.MessageDescriptor) []member {
	if known, ok := members.Load(d); ok {
		return known.([]member) //nolint:errcheck // nothing else is stored
	}
	fields := d.Fields()
	all := make([]member, fields.Len())
	for i := range all {
		field := fields.Get(i)
		all[i] = member{field, `"` + string(field.Name()) + `":`, field.HasPresence()}
	}
	members.Store(d, all)
	return all
}

const timestampName protoreflect.FullName = "google.protobuf.Timestamp"

func appendMessage(b []byte, m protoreflect.Message) ([]byte, error) {
	switch name := m.Descriptor().FullName(); {
	case name == timestampName:
		return appendTimestamp(b, m)
	case strings.HasPrefix(string(name), "google.protobuf."): // each has a form of its own
		text, err := asJSON.Marshal(m.Interface())
		return append(b, text...), err
	}
	b = append(b, '{')
	first := true
	for _, field := range membersOf(m.Descriptor()) {
		if field.presence && !m.Has(field.FieldDescriptor) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, field.name...)
		var err error
		if b, err = appendField(b, field.FieldDescriptor, m.Get(field.FieldDescriptor)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendField(b []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) ([]byte, error) {
	var err error
	switch {
	case field.IsList():
		list := value.List()
		b = append(b, '[')
		for i := range list.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, field, list.Get(i)); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case field.IsMap():
		return appendMap(b, field, value.Map())
	}
	return appendValue(b, field, value)
}

// appendMap writes the entries in the order of their keys as texts, so that one answer is always the same.
func appendMap(b []byte, field protoreflect.FieldDescriptor, values protoreflect.Map) ([]byte, error) {
	keys := make([]protoreflect.MapKey, 0, values.Len())
	values.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, key)
		return true
	})
	slices.SortFunc(keys, func(x, y protoreflect.MapKey) int { return strings.Compare(x.String(), y.String()) })
	b = append(b, '{')
	for i, key := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendString(b, key.String()); err != nil {
			return nil, err
		}
		b = append(b, ':')
		if b, err = appendValue(b, field.MapValue(), values.Get(key)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendValue(b []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) ([]byte, error) {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, value.Bool()), nil
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			return append(append(append(b, '"'), known.Name()...), '"'), nil
		}
		return strconv.AppendInt(b, int64(value.Enum()), 10), nil
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return strconv.AppendInt(b, value.Int(), 10), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return strconv.AppendUint(b, value.Uint(), 10), nil
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind: // readers in JavaScript have 53 bits
		return append(strconv.AppendInt(append(b, '"'), value.Int(), 10), '"'), nil
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return append(strconv.AppendUint(append(b, '"'), value.Uint(), 10), '"'), nil
	case protoreflect.FloatKind:
		return appendFloat(b, value.Float(), 32), nil
	case protoreflect.DoubleKind:
		return appendFloat(b, value.Float(), 64), nil
	case protoreflect.StringKind:
		return appendString(b, value.String())
	case protoreflect.BytesKind:
		return append(base64.StdEncoding.AppendEncode(append(b, '"'), value.Bytes()), '"'), nil
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendMessage(b, value.Message())
	}
	return nil, fmt.Errorf("%s has a kind that is not known", field.FullName())
}

func appendFloat(b []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(b, `"-Infinity"`...)
	}
	return strconv.AppendFloat(b, f, 'g', -1, bits)
}

var errUTF8 = errors.New("a text is not UTF-8")

const hexDigits = "0123456789abcdef"

func appendString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, errUTF8
	}
	b = append(b, '"')
	done := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
			continue
		}
		b = append(b, s[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
	}
	return append(append(b, s[done:]...), '"'), nil
}

// appendTimestamp writes RFC 3339 with as many digits of the second as it needs, in threes.
func appendTimestamp(b []byte, m protoreflect.Message) ([]byte, error) {
	fields := m.Descriptor().Fields()
	at := time.Unix(m.Get(fields.ByNumber(1)).Int(), m.Get(fields.ByNumber(2)).Int()).UTC()
	if at.Year() < 1 || at.Year() > 9999 {
		return nil, fmt.Errorf("the time %s cannot be written", at)
	}
	b = at.AppendFormat(append(b, '"'), "2006-01-02T15:04:05")
	switch n := at.Nanosecond(); {
	case n == 0:
	case n%1_000_000 == 0:
		b = at.AppendFormat(b, ".000")
	case n%1000 == 0:
		b = at.AppendFormat(b, ".000000")
	default:
		b = at.AppendFormat(b, ".000000000")
	}
	return append(b, 'Z', '"'), nil
}

// marshalJSON is asJSON.Marshal, but for spaces.
func marshalJSON(m proto.Message) ([]byte, error) {
	return appendMessage(make([]byte, 0, 64+4*proto.Size(m)), m.ProtoReflect()) // about its size, names included: growing copies
}
