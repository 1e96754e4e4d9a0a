package rest

import (
	"encoding/json"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// setText writes a field of a request from the text of a path or query. Texts are read as in JSON: true and false, enums by
// name, times by RFC 3339, durations as "3.5s", masks as "a,b".
func setText(message protoreflect.Message, field protoreflect.FieldDescriptor, text string) error {
	value, rule := valueOf(message, field, text)
	if rule != "" {
		return refused(string(field.Name()), rule)
	}
	if field.IsList() {
		message.Mutable(field).List().Append(value)
	} else {
		message.Set(field, value)
	}
	return nil
}

func valueOf(message protoreflect.Message, field protoreflect.FieldDescriptor, text string) (value protoreflect.Value, rule string) {
	if field.IsMap() {
		return value, "cannot be given as a parameter"
	}
	switch kind := field.Kind(); kind {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), ""
	case protoreflect.BoolKind:
		if text != "true" && text != "false" {
			return value, "must be true or false"
		}
		return protoreflect.ValueOfBool(text == "true"), ""
	case protoreflect.EnumKind:
		found := field.Enum().Values().ByName(protoreflect.Name(text))
		if found == nil {
			return value, "must be one of " + strings.Join(namesOf(field.Enum()), ", ")
		}
		return protoreflect.ValueOfEnum(found.Number()), ""
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), number(err)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		return protoreflect.ValueOfInt64(n), number(err)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := strconv.ParseUint(text, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)), number(err)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := strconv.ParseUint(text, 10, 64)
		return protoreflect.ValueOfUint64(n), number(err)
	case protoreflect.MessageKind:
		return wellKnown(message, field, text)
	}
	return value, "cannot be given as a parameter"
}

func number(err error) string {
	if err != nil {
		return "must be a whole number in range"
	}
	return ""
}

// wellKnown reads the messages that are a text in JSON.
func wellKnown(message protoreflect.Message, field protoreflect.FieldDescriptor, text string) (value protoreflect.Value, rule string) {
	rules := map[protoreflect.FullName]string{
		"google.protobuf.Timestamp": "must be a time as 2006-01-02T15:04:05Z",
		"google.protobuf.Duration":  "must be a duration in seconds, as 3.5s",
		"google.protobuf.FieldMask": "must be names of fields with commas between them",
	}
	rule, known := rules[field.Message().FullName()]
	if !known {
		return value, "cannot be given as a parameter"
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return value, rule
	}
	value = message.NewField(field)
	if field.IsList() {
		value = value.List().NewElement()
	}
	if err := protojson.Unmarshal(quoted, value.Message().Interface()); err != nil {
		return value, rule
	}
	return value, ""
}

// namesOf are the values of an enum that can be sent.
func namesOf(enum protoreflect.EnumDescriptor) []string {
	var names []string
	for i := range enum.Values().Len() {
		if value := enum.Values().Get(i); value.Number() != 0 {
			names = append(names, string(value.Name()))
		}
	}
	return names
}
