package link

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const hostileText = "a\x1b[2J\r\nb\x00\u202ec\u2028d\x7f"

// fill sets every text that a message can hold.
func fill(m protoreflect.Message, text string, depth int) {
	if depth == 0 {
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap():
			value := protoreflect.ValueOfString(text)
			if f.MapValue().Kind() == protoreflect.StringKind {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString("key").MapKey(), value)
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(text).MapKey(), value)
			}
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			m.Mutable(f).List().Append(protoreflect.ValueOfString(text))
		case f.IsList() && f.Message() != nil:
			fill(m.Mutable(f).List().AppendMutable().Message(), text, depth-1)
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(text))
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), text, depth-1)
		}
	}
}

// texts calls see for every text in a message.
func texts(m protoreflect.Message, see func(path, text string)) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.FullName())
		switch {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				see(name+" key", k.String())
				if f.MapValue().Kind() == protoreflect.StringKind {
					see(name, v.String())
				}
				return true
			})
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			for i := range v.List().Len() {
				see(name, v.List().Get(i).String())
			}
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				texts(v.List().Get(i).Message(), see)
			}
		case f.Kind() == protoreflect.StringKind:
			see(name, v.String())
		case f.Message() != nil:
			texts(v.Message(), see)
		}
		return true
	})
}

// TestClean goes over every text that an agent can send: those of fields to
// come too.
func TestClean(t *testing.T) {
	services := linkv1.File_chom_link_v1_link_service_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			d := methods.Get(j).Input()
			for name, text := range map[string]string{"hostile": hostileText, "long": strings.Repeat("ü", textMax)} {
				// A oneof keeps only what was set last, so each of its fields gets a message of its own.
				for _, m := range variants(d, text) {
					clean(m)
					texts(m.ProtoReflect(), func(path, text string) {
						if strings.ContainsAny(text, "\x1b\r\n\x00\u202e\u2028\x7f") || len(text) > textMax || !utf8.ValidString(text) {
							t.Errorf("%s text in %s comes through as %.40q, %d bytes", name, path, text, len(text))
						}
					})
				}
			}
		}
	}
	if got := cleanText("Grüße, 世界 👋 <b>"); got != "Grüße, 世界 👋 <b>" {
		t.Errorf("harmless text became %q", got)
	}
}

func variants(d protoreflect.MessageDescriptor, text string) []proto.Message {
	whole := dynamicpb.NewMessage(d)
	fill(whole, text, 5)
	all := []proto.Message{whole}
	if d.FullName() != (*linkv1.ReportRequest)(nil).ProtoReflect().Descriptor().FullName() {
		return all
	}
	event := (*linkv1.TaskEvent)(nil).ProtoReflect().Descriptor()
	oneof := event.Oneofs().ByName("event").Fields()
	for i := range oneof.Len() {
		e := (&linkv1.TaskEvent{}).ProtoReflect()
		fill(e.Mutable(oneof.Get(i)).Message(), text, 5)
		all = append(all, &linkv1.ReportRequest{Events: []*linkv1.TaskEvent{e.Interface().(*linkv1.TaskEvent)}})
	}
	return all
}

func TestCleanTime(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		in   *timestamppb.Timestamp
		kept bool
	}{
		"now":             {timestamppb.New(now), true},
		"a week ago":      {timestamppb.New(now.Add(-7 * 24 * time.Hour)), true},
		"none":            {nil, false},
		"the first":       {&timestamppb.Timestamp{}, false},
		"no real one":     {&timestamppb.Timestamp{Seconds: 1 << 62, Nanos: -5}, false},
		"of next year":    {timestamppb.New(now.Add(365 * 24 * time.Hour)), false},
		"before the host": {timestamppb.New(now.Add(-365 * 24 * time.Hour)), false},
	} {
		t.Run(name, func(t *testing.T) {
			got := cleanTime(c.in, now)
			if c.kept != got.AsTime().Equal(c.in.AsTime()) || !c.kept && !got.AsTime().Equal(now) {
				t.Errorf("got %s", got.AsTime())
			}
		})
	}
}
