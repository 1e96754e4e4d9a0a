package rest

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// etagField is the version of a thing, in a thing that can be updated and in the request that updates it.
const etagField protoreflect.Name = "etag"

// setETag writes the header If-Match into the request: the update then happens only if the thing is still what the caller
// saw. "*" asks for nothing more than that it exists, which every update does.
func setETag(message protoreflect.Message, ifMatch []string) error {
	text := strings.TrimSpace(strings.Join(ifMatch, ","))
	if text == "" || text == "*" {
		return nil
	}
	field := message.Descriptor().Fields().ByName(etagField)
	if field == nil {
		return refused("If-Match", "this call cannot be made to depend on an ETag")
	}
	tag, ok := strings.CutPrefix(text, `"`)
	tag, closed := strings.CutSuffix(tag, `"`)
	if !ok || !closed || tag == "" || strings.ContainsAny(tag, `",`) {
		return refused("If-Match", `must be one strong ETag, as "7"`)
	}
	if message.Has(field) && message.Get(field).String() != tag {
		return refused(string(etagField), "differs from the header If-Match")
	}
	message.Set(field, protoreflect.ValueOfString(tag))
	return nil
}

// ETagOf is the ETag of an answer as a header has it: that of the thing that it holds, empty where it has none.
func ETagOf(answer protoreflect.Message) string {
	fields := answer.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if field.Message() == nil || field.IsList() || field.IsMap() || !answer.Has(field) {
			continue
		}
		thing := answer.Get(field).Message()
		if etag := thing.Descriptor().Fields().ByName(etagField); etag != nil && thing.Has(etag) {
			return `"` + thing.Get(etag).String() + `"`
		}
	}
	return ""
}
