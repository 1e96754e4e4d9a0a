package openapi

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"chom.dev/controlplane/rest"
)

// schemas are those of the messages and enums that are in use.
type schemas struct {
	made map[string]*object
	// asked are the messages that somebody sends; all others are always complete.
	asked map[protoreflect.FullName]bool
}

func newSchemas(methods map[string]protoreflect.MethodDescriptor) *schemas {
	s := &schemas{made: map[string]*object{}, asked: map[protoreflect.FullName]bool{}}
	var ask func(protoreflect.MessageDescriptor)
	ask = func(m protoreflect.MessageDescriptor) {
		if s.asked[m.FullName()] {
			return
		}
		s.asked[m.FullName()] = true
		for i := range m.Fields().Len() {
			if of := m.Fields().Get(i).Message(); of != nil {
				ask(of)
			}
		}
	}
	for _, method := range methods {
		ask(method.Input())
	}
	return s
}

// all are sorted, the problem among them.
func (s *schemas) all() *object {
	s.made["Problem"] = problem()
	o := of()
	for _, name := range slices.Sorted(maps.Keys(s.made)) {
		o.set(name, s.made[name])
	}
	return o
}

// name is how a message or enum is called here, and makes its schema: site.Site for chom.site.v1.Site.
func (s *schemas) name(d protoreflect.Descriptor) string {
	name := strings.ReplaceAll(strings.TrimPrefix(string(d.FullName()), "chom."), ".v1.", ".")
	if s.made[name] != nil {
		return name
	}
	s.made[name] = of("type", "null") // a message may hold itself
	switch d := d.(type) {
	case protoreflect.EnumDescriptor:
		s.made[name] = enum(d)
	case protoreflect.MessageDescriptor:
		s.made[name] = s.message(d, nil)
	}
	return name
}

func ref(name string) *object { return of("$ref", "#/components/schemas/"+name) }

// body is the schema of a request without what its path names.
func (s *schemas) body(route *rest.Route) *object {
	return s.message(route.Descriptor.Input(), route.Fields())
}

// needed are the fields that a body must have.
func (s *schemas) needed(route *rest.Route) list {
	required, _ := s.body(route).values["required"].(list)
	return required
}

func (s *schemas) message(m protoreflect.MessageDescriptor, but []protoreflect.FieldDescriptor) *object {
	properties := of()
	var required list
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		if slices.Contains(but, field) {
			continue
		}
		schema := s.field(field)
		if text := comment(field); text != "" {
			if schema.values["$ref"] != nil {
				schema = of("description", text, "allOf", list{schema})
			} else {
				schema.set("description", strings.TrimSpace(text+"\n\n"+textOf(schema)))
			}
		}
		properties.set(string(field.Name()), schema)
		// A mask that is left out is that of the body.
		if s.asked[m.FullName()] && mustHave(field) && field.Name() != "update_mask" || !s.asked[m.FullName()] && !field.HasPresence() {
			required = append(required, string(field.Name()))
		}
	}
	o := of("type", "object", "description", comment(m), "properties", properties, "required", required)
	if s.asked[m.FullName()] {
		o.set("additionalProperties", false)
	}
	return o
}

func textOf(schema *object) string {
	text, _ := schema.values["description"].(string)
	return text
}

func enum(e protoreflect.EnumDescriptor) *object {
	var names list
	text := comment(e)
	for i := range e.Values().Len() {
		value := e.Values().Get(i)
		names = append(names, string(value.Name()))
		text += fmt.Sprintf("\n\n`%s`: %s", value.Name(), comment(value))
	}
	return of("type", "string", "description", strings.TrimSpace(text), "enum", names)
}

// field is the schema of a field's value with the rules on it.
func (s *schemas) field(field protoreflect.FieldDescriptor) *object {
	rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	switch {
	case field.IsMap():
		pairs := cmp.Or(rules.GetMap(), &validate.MapRules{})
		o := of("type", "object", "additionalProperties", s.one(field.MapValue(), rules.GetMap().GetValues()))
		if pattern := rules.GetMap().GetKeys().GetString().GetPattern(); pattern != "" {
			o.set("propertyNames", of("pattern", pattern))
		}
		bound(o, "minProperties", pairs.MinPairs, "maxProperties", pairs.MaxPairs)
		return o
	case field.IsList():
		items := cmp.Or(rules.GetRepeated(), &validate.RepeatedRules{})
		o := of("type", "array", "items", s.one(field, rules.GetRepeated().GetItems()))
		bound(o, "minItems", items.MinItems, "maxItems", items.MaxItems)
		if items.GetUnique() {
			o.set("uniqueItems", true)
		}
		return o
	}
	return s.one(field, rules)
}

func bound[T any](o *object, least string, low *T, most string, high *T) {
	if low != nil {
		o.set(least, *low)
	}
	if high != nil {
		o.set(most, *high)
	}
}

// one is the schema of a single value.
func (s *schemas) one(field protoreflect.FieldDescriptor, rules *validate.FieldRules) *object {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return of("type", "boolean")
	case protoreflect.StringKind:
		return stringSchema(rules)
	case protoreflect.BytesKind:
		o := of("type", "string", "contentEncoding", "base64")
		if most := rules.GetBytes().GetMaxLen(); most > 0 {
			o.set("maxLength", (most+2)/3*4)
		}
		return o
	case protoreflect.EnumKind:
		return ref(s.name(field.Enum()))
	case protoreflect.MessageKind:
		return s.messageValue(field.Message(), rules)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return of("type", "number")
	}
	return numberSchema(field.Kind(), rules)
}

func (s *schemas) messageValue(m protoreflect.MessageDescriptor, rules *validate.FieldRules) *object {
	switch m.FullName() {
	case "google.protobuf.Timestamp":
		return of("type", "string", "format", "date-time")
	case "google.protobuf.Duration":
		o := of("type", "string", "pattern", `^-?[0-9]+(\.[0-9]{1,9})?s$`)
		if most := rules.GetDuration().GetLte(); most != nil {
			o.set("description", fmt.Sprintf("At most %s.", most.AsDuration()))
		}
		return o
	case "google.protobuf.FieldMask":
		return of("type", "string", "description", "Names with commas between them. Left out, it is the names of the fields that the body has.")
	}
	return ref(s.name(m))
}

func stringSchema(rules *validate.FieldRules) *object {
	r := cmp.Or(rules.GetString(), &validate.StringRules{})
	o := of("type", "string")
	switch {
	case r.GetUuid():
		o.set("format", "uuid")
	case r.GetEmail():
		o.set("format", "email")
	case r.GetUri():
		o.set("format", "uri")
	case r.GetHostname():
		o.set("format", "hostname")
	}
	if r.Const != nil {
		o.set("const", r.GetConst())
	}
	var in list
	for _, value := range r.GetIn() {
		in = append(in, value)
	}
	o.set("enum", in).set("pattern", r.GetPattern())
	bound(o, "minLength", r.MinLen, "maxLength", r.MaxLen)
	if r.Len != nil {
		bound(o, "minLength", r.Len, "maxLength", r.Len)
	}
	if rules.GetIgnore() == validate.Ignore_IGNORE_IF_ZERO_VALUE && r.GetUuid() {
		return of("anyOf", list{o, of("type", "string", "maxLength", 0)})
	}
	return o
}

// limits of a number, nil where there is none.
type limits struct{ gt, gte, lt, lte any }

func numberSchema(kind protoreflect.Kind, rules *validate.FieldRules) *object {
	o := of("type", "integer")
	var l limits
	switch kind {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		o.set("format", "int32")
		l = limitsOf(rules.GetInt32().ProtoReflect())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		l = limitsOf(rules.GetUint32().ProtoReflect())
		o.set("minimum", 0)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return of("type", list{"string", "integer"}, "format", "int64")
	default:
		return of("type", list{"string", "integer"}, "format", "uint64")
	}
	return o.set("exclusiveMinimum", l.gt).set("minimum", l.gte).set("exclusiveMaximum", l.lt).set("maximum", l.lte)
}

func limitsOf(rules protoreflect.Message) limits {
	value := func(name protoreflect.Name) any {
		if !rules.IsValid() {
			return nil
		}
		field := rules.Descriptor().Fields().ByName(name)
		if !rules.Has(field) {
			return nil
		}
		return rules.Get(field).Interface()
	}
	return limits{value("gt"), value("gte"), value("lt"), value("lte")}
}

// mustHave reports whether a request without the field breaks a rule.
func mustHave(field protoreflect.FieldDescriptor) bool {
	rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	if rules.GetIgnore() == validate.Ignore_IGNORE_IF_ZERO_VALUE || rules.GetIgnore() == validate.Ignore_IGNORE_ALWAYS {
		return false
	}
	text := rules.GetString()
	switch {
	case rules.GetRequired(), rules.GetRepeated().GetMinItems() > 0, rules.GetMap().GetMinPairs() > 0, rules.GetBytes().GetMinLen() > 0, rules.GetBytes().GetLen() > 0:
		return true
	case field.HasPresence():
		return false // left out, it is not looked at
	case text.GetUuid(), text.GetEmail(), text.GetMinLen() > 0, text.GetLen() > 0:
		return true
	case slices.Contains(rules.GetEnum().GetNotIn(), 0), rules.GetInt32().GetGte() > 0, rules.GetUint32().GetGte() > 0:
		return true
	case text.GetPattern() != "":
		pattern, err := regexp.Compile(text.GetPattern())
		return err == nil && !pattern.MatchString("")
	}
	return false
}

// problem is the schema of a failure.
func problem() *object {
	var kinds list
	explained := of()
	for _, kind := range rest.Kinds {
		kinds = append(kinds, rest.TypePrefix+kind.Name)
		explained.set(kind.Name, of("status", kind.Status, "title", kind.Title, "advice", kind.Advice))
	}
	return of(
		"type", "object",
		"description", "A failure, as RFC 9457 has it.",
		"properties", of(
			"type", of("type", "string", "description", "The kind of failure; programs compare it.", "enum", kinds),
			"title", of("type", "string", "description", "The kind in words."),
			"status", of("type", "integer", "description", "The HTTP status."),
			"detail", of("type", "string", "description", "What went wrong with this call."),
			"errors", of("type", "array", "description", "The fields that break a rule.", "items", of(
				"type", "object",
				"properties", of(
					"field", of("type", "string", "description", "Its name as in the request, for example domains[2]."),
					"rule", of("type", "string", "description", "What it breaks."),
				),
				"required", list{"field", "rule"},
			)),
			"request_id", of("type", "string", "description", "What the control plane's log calls this call."),
			"retry_after", of("type", "integer", "description", "Seconds to wait before the same call may succeed; left out where waiting does not help."),
		),
		"required", list{"type", "title", "status", "detail"},
		"x-chom-kinds", explained,
	)
}
