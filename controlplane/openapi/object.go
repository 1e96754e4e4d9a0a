package openapi

import (
	"bytes"
	"encoding/json"
)

// object is a JSON object whose names stay in the order in which they were set.
type object struct {
	names  []string
	values map[string]any
}

// list is a JSON array.
type list []any

// of makes an object of names and values in turn.
func of(pairs ...any) *object {
	o := &object{values: map[string]any{}}
	for i := 0; i < len(pairs); i += 2 {
		o.set(pairs[i].(string), pairs[i+1]) //nolint:errcheck // a name that is no text is a bug
	}
	return o
}

// set sets a name; nil, an empty text, list or object sets nothing.
func (o *object) set(name string, value any) *object {
	switch v := value.(type) {
	case nil:
		return o
	case string:
		if v == "" {
			return o
		}
	case list:
		if len(v) == 0 {
			return o
		}
	case *object:
		if v == nil || len(v.names) == 0 {
			return o
		}
	}
	if _, has := o.values[name]; !has {
		o.names = append(o.names, name)
	}
	o.values[name] = value
	return o
}

// MarshalJSON implements json.Marshaler.
func (o *object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, name := range o.names {
		if i > 0 {
			b.WriteByte(',')
		}
		text, err := plainJSON(name)
		if err != nil {
			return nil, err
		}
		b.Write(text)
		b.WriteByte(':')
		if text, err = plainJSON(o.values[name]); err != nil {
			return nil, err
		}
		b.Write(text)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// plainJSON leaves < and > as they are: the document is never HTML.
func plainJSON(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return bytes.TrimSpace(b.Bytes()), err
}
