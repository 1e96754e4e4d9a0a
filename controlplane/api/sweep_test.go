package api

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

var noop = &orderv1.Noop{}

type lockedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(b)
}

func procedures() []string { return slices.Sorted(maps.Keys(methods())) }

func TestRules(t *testing.T) {
	t.Run("has a row for each method", func(t *testing.T) {
		if err := checkRules(rules, methods()); err != nil {
			t.Error(err)
		}
	})
	for _, procedure := range procedures() {
		t.Run("notices that "+procedure+" lacks one", func(t *testing.T) {
			less := maps.Clone(rules)
			delete(less, procedure)
			if err := checkRules(less, methods()); err == nil || !strings.Contains(err.Error(), procedure+" has no row") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("notices a row for nothing", func(t *testing.T) {
		more := maps.Clone(rules)
		more["/chom.site.v1.SiteService/Gone"] = rule{who: operator}
		if err := checkRules(more, methods()); err == nil {
			t.Error("got nil")
		}
	})
	t.Run("notices members of an organization that is not named", func(t *testing.T) {
		other := maps.Clone(rules)
		other["/chom.fleet.v1.ServerService/GetServer"] = members("viewer", account.Read, allSites)
		if err := checkRules(other, methods()); err == nil {
			t.Error("got nil")
		}
	})
}

// TestLimits finds fields of requests that a caller could fill without end.
func TestLimits(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] || m.ParentFile().Package() == "google.protobuf" {
			return // a field mask is checked by site.CheckMask
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			field := m.Fields().Get(i)
			constraints, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
			if missing := unlimited(field, constraints); missing != "" {
				t.Errorf("%s: %s", field.FullName(), missing)
			}
			if field.Message() != nil && !field.IsMap() {
				walk(field.Message())
			}
		}
	}
	for _, method := range methods() {
		walk(method.Input())
	}
}

// unlimited says which limit a field lacks.
func unlimited(field protoreflect.FieldDescriptor, c *validate.FieldRules) string {
	switch {
	case field.IsMap():
		if c.GetMap().MaxPairs == nil {
			return "map without max_pairs"
		}
		for _, part := range []struct {
			field protoreflect.FieldDescriptor
			rules *validate.FieldRules
		}{{field.MapKey(), c.GetMap().GetKeys()}, {field.MapValue(), c.GetMap().GetValues()}} {
			if missing := unlimited(part.field, part.rules); missing != "" {
				return "in the map: " + missing
			}
		}
	case field.IsList():
		if c.GetRepeated().MaxItems == nil {
			return "list without max_items"
		}
		if field.Message() == nil {
			return unlimitedScalar(field, c.GetRepeated().GetItems())
		}
	default:
		return unlimitedScalar(field, c)
	}
	return ""
}

func unlimitedScalar(field protoreflect.FieldDescriptor, c *validate.FieldRules) string {
	switch field.Kind() {
	case protoreflect.StringKind:
		s := c.GetString()
		pattern := s.GetPattern()
		bounded := strings.HasPrefix(pattern, "^") && strings.HasSuffix(pattern, "$") && !strings.ContainsAny(pattern, "*+")
		if s.MaxLen == nil && s.MaxBytes == nil && s.Len == nil && len(s.GetIn()) == 0 && !s.GetUuid() && !bounded {
			return "string without a limit"
		}
	case protoreflect.BytesKind:
		if c.GetBytes().MaxLen == nil && c.GetBytes().Len == nil {
			return "bytes without a limit"
		}
	}
	return ""
}

// hostile is what must never reach a host, whatever the field.
var hostile = map[string]string{
	"a command":        "a;id",
	"a substitution":   "$(id)",
	"backticks":        "`id`",
	"a line break":     "a\nb",
	"CRLF":             "a\r\nb",
	"NUL":              "a\x00b",
	"U+2028":           "a\u2028b",
	"a parent folder":  "../../etc",
	"a leading hyphen": "-rf",
	"a megabyte":       strings.Repeat("a", 1<<20-2048), // the largest that the door lets in at all
}

// fineIn are, by field, what of that is taken there. Of a text in which people write what they like only what could end a line or an
// argument is refused; a question is parsed, and in PromQL -rf is a number and `id` a text.
var fineIn = map[string][]string{
	"settings{title}": freeText, "description": freeText,
	"query": {"backticks", "a leading hyphen"},
}

var freeText = []string{"a command", "a substitution", "backticks", "a parent folder"}

// TestHostile puts hostile text into each string of each request in turn.
func TestHostile(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		before := w.effects(t)
		tried := 0
		ways := map[string]transport{"Connect": w.by()}
		if d.Engine() == "sqlite" { // where it is written does not change what is refused
			ways["REST"] = w.byREST(t)
		}
		for _, procedure := range procedures() {
			for path, put := range stringFields(w.valid(procedure, w.ours)) {
				for name, text := range hostile {
					if slices.Contains(fineIn[path], name) {
						continue
					}
					request := w.valid(procedure, w.ours)
					put(request, text)
					for way, call := range ways {
						tried++
						err := call(t, w.operatorFor(procedure), procedure, request)
						if connect.CodeOf(err) != connect.CodeInvalidArgument {
							t.Errorf("%s by %s, %s in %s: %v", procedure, way, name, path, err)
							continue
						}
						if field := namedField(err); field == "" || !strings.Contains(path, strings.FieldsFunc(field, func(r rune) bool { return strings.ContainsRune(".[{", r) })[0]) {
							t.Errorf("%s, %s in %s: the error names %q: %v", procedure, name, path, field, err)
						}
						if len(text) > 100 && strings.Contains(err.Error(), text) {
							t.Errorf("%s, %s in %s: the error repeats it", procedure, name, path)
						}
					}
				}
			}
		}
		if tried < 400 {
			t.Errorf("only %d requests were tried", tried)
		}
		if after := w.effects(t); !maps.Equal(before, after) {
			t.Errorf("effects: before %v, after %v", before, after)
		}
	})
}

// namedField is the field that an InvalidArgument names in its details.
func namedField(err error) string {
	var remote *connect.Error
	if !errors.As(err, &remote) {
		return ""
	}
	for _, detail := range remote.Details() {
		if value, err := detail.Value(); err == nil {
			if bad, ok := value.(*errdetails.BadRequest); ok && len(bad.GetFieldViolations()) > 0 {
				return bad.GetFieldViolations()[0].GetField()
			}
		}
	}
	return ""
}

// stringFields finds every place for a string in a request, and how to write it.
func stringFields(m *dynamicpb.Message) map[string]func(*dynamicpb.Message, string) {
	all := map[string]func(*dynamicpb.Message, string){}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		name := string(field.Name())
		switch {
		case field.IsMap():
			all[name+"{}"] = func(m *dynamicpb.Message, text string) {
				m.Mutable(field).Map().Set(protoreflect.ValueOfString(text).MapKey(), protoreflect.ValueOfString("x"))
			}
			all[name+"{title}"] = func(m *dynamicpb.Message, text string) {
				m.Mutable(field).Map().Set(protoreflect.ValueOfString("title").MapKey(), protoreflect.ValueOfString(text))
				addMask(m, name)
			}
			all[name+"{locale}"] = func(m *dynamicpb.Message, text string) {
				m.Mutable(field).Map().Set(protoreflect.ValueOfString("locale").MapKey(), protoreflect.ValueOfString(text))
				addMask(m, name)
			}
		case field.IsList() && field.Kind() == protoreflect.StringKind:
			all[name+"[]"] = func(m *dynamicpb.Message, text string) {
				m.Mutable(field).List().Append(protoreflect.ValueOfString(text))
			}
		case field.Kind() == protoreflect.StringKind:
			all[name] = func(m *dynamicpb.Message, text string) { m.Set(field, protoreflect.ValueOfString(text)) }
		case field.Message() != nil && field.Message().FullName() == "google.protobuf.FieldMask":
			all[name+".paths[]"] = func(m *dynamicpb.Message, text string) { addMask(m, text) }
		}
	}
	return all
}

// addMask names a part of a site that an update is to change.
func addMask(m *dynamicpb.Message, path string) {
	if field := m.Descriptor().Fields().ByName("update_mask"); field != nil {
		mask := m.Mutable(field).Message()
		mask.Mutable(mask.Descriptor().Fields().ByName("paths")).List().Append(protoreflect.ValueOfString(path))
	}
}

// TestBigBody sends 50 MiB where a few hundred bytes belong.
func TestBigBody(t *testing.T) {
	w := sqliteWorld(t)
	for name, test := range map[string]struct{ path, kind, token, want string }{
		"nobody":              {"/chom.site.v1.SiteService/CreateSite", "application/proto", "", "unauthenticated"},
		"an operator":         {"/chom.site.v1.SiteService/CreateSite", "application/proto", w.operator, "resource_exhausted"},
		"nobody by REST":      {"/api/v1/organizations/" + w.ours.organization + "/sites", "application/json", "", "unauthenticated"},
		"an operator by REST": {"/api/v1/organizations/" + w.ours.organization + "/sites", "application/json", w.operator, "body_too_large"},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+test.path, io.LimitReader(zeros{}, 50<<20))
		must(t, err)
		request.Header.Set("Content-Type", test.kind)
		if test.token != "" {
			request.Header.Set("Authorization", "Bearer "+test.token)
		}
		answer, err := http.DefaultClient.Do(request)
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
			answer.Body.Close()
			if !strings.Contains(string(body), test.want) {
				t.Errorf("%s: %d %s", name, answer.StatusCode, body)
			}
		} // else the connection was closed on the flood, which is as good
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
			t.Errorf("%s: the heap grew by %d MiB", name, grown>>20)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
