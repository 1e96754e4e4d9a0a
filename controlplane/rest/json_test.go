package rest

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"pgregory.net/rapid"

	_ "chom.dev/proto/gen/chom/account/v1"
	_ "chom.dev/proto/gen/chom/audit/v1"
	_ "chom.dev/proto/gen/chom/fleet/v1"
	_ "chom.dev/proto/gen/chom/link/v1"
	_ "chom.dev/proto/gen/chom/organization/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	_ "chom.dev/proto/gen/chom/task/v1"
	_ "chom.dev/proto/gen/chom/webhook/v1"
)

// messages are all of ours.
func messages() (all []protoreflect.MessageDescriptor) {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(file.Path(), "chom/") {
			for i := range file.Messages().Len() {
				all = append(all, file.Messages().Get(i))
			}
		}
		return true
	})
	return all
}

// fill draws a message of any content.
func fill(t *rapid.T, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if rapid.IntRange(0, 2).Draw(t, "unset") == 0 || field.Message() != nil && !field.IsMap() && depth == 0 {
			continue
		}
		one := func(of protoreflect.FieldDescriptor, empty func() protoreflect.Value) protoreflect.Value {
			if of.Message() != nil {
				value := empty()
				switch of.Message().FullName() {
				case timestampName, "google.protobuf.Duration":
					parts := of.Message().Fields()
					value.Message().Set(parts.ByNumber(1), protoreflect.ValueOfInt64(rapid.Int64Range(0, 250_000_000_000).Draw(t, "seconds")))
					value.Message().Set(parts.ByNumber(2), protoreflect.ValueOfInt32(rapid.SampledFrom([]int32{0, 5, 120_000, 340_000_000, 999_999_999}).Draw(t, "nanos")))
				case "google.protobuf.FieldMask":
				default:
					fill(t, value.Message(), depth-1)
				}
				return value
			}
			return scalar(t, of)
		}
		switch {
		case field.IsList():
			list := m.Mutable(field).List()
			for range rapid.IntRange(0, 3).Draw(t, "items") {
				list.Append(one(field, list.NewElement))
			}
		case field.IsMap():
			values := m.Mutable(field).Map()
			for range rapid.IntRange(0, 3).Draw(t, "entries") {
				values.Set(scalar(t, field.MapKey()).MapKey(), one(field.MapValue(), values.NewValue))
			}
		default:
			m.Set(field, one(field, func() protoreflect.Value { return m.NewField(field) }))
		}
	}
}

func scalar(t *rapid.T, field protoreflect.FieldDescriptor) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32Range(0, 30).Draw(t, "enum")))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(rapid.Float32().Draw(t, "float"))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rapid.SampledFrom([]float64{0, -0.5, 1e300, 123456789, math.Inf(1), math.Inf(-1)}).Draw(t, "double"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	}
	return protoreflect.ValueOfString(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", `"\/<>&`, "a\x00b\x1f\x7f", "\u2028 ü €"})).Draw(t, "string"))
}

// TestJSON holds our JSON to that of protojson, for messages of all types.
func TestJSON(t *testing.T) {
	types := messages()
	if len(types) < 50 {
		t.Fatalf("only %d types", len(types))
	}
	rapid.Check(t, func(t *rapid.T) {
		m := dynamicpb.NewMessage(rapid.SampledFrom(types).Draw(t, "type"))
		fill(t, m, 3)
		want, err := asJSON.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := marshalJSON(m)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(want, &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got, &b); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
	if _, err := marshalJSON(&sitev1.Site{Name: "\xff"}); err == nil {
		t.Error("what is no UTF-8 was written")
	}
}

func BenchmarkJSON(b *testing.B) {
	site := &sitev1.Site{
		Id: "01997f3e-0000-7000-8000-000000000000", OrganizationId: "01997f3e-0000-7000-8000-000000000000", Name: "blog", Domains: []string{"blog.example.com"},
		Settings: map[string]string{"title": "A blog", "locale": "en_US"}, Limits: &sitev1.Limits{}, Observed: &sitev1.ObservedState{PageTitle: "A blog"},
	}
	page := &sitev1.ListSitesResponse{}
	for range 50 {
		page.Sites = append(page.Sites, site)
	}
	for name, marshal := range map[string]func(proto.Message) ([]byte, error){"ours": marshalJSON, "protojson": asJSON.Marshal} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := marshal(page); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
