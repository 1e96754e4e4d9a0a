package rest

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Route is one URL of a method. Of what google.api.http can express, it knows paths of words and {fields}, a verb behind a
// colon, a body that is the whole message, and an answer that is its HttpBody; nothing else is in use.
type Route struct {
	// Method is the HTTP method; Path is as in the annotation, for example "/api/v1/servers/{server_id}:drain".
	Method, Path string
	// Procedure is the method's path by Connect.
	Procedure string
	// Descriptor is the method.
	Descriptor protoreflect.MethodDescriptor
	// Binding counts the URLs of one method, from 0.
	Binding int
	// HasBody says that what the path does not name comes in the body, else in the query.
	HasBody bool

	segments []segment
	verb     string
	request  protoreflect.MessageType
}

// segment is one part of a path: a word, or a field of the request.
type segment struct {
	word  string
	field protoreflect.FieldDescriptor
}

// Streams says that the answer is a stream.
func (r *Route) Streams() bool { return r.Descriptor.IsStreamingServer() }

// Raw says that the answer is bytes of a type of its own, not JSON.
func (r *Route) Raw() bool { return bodyField(r.Descriptor.Output()) != "" }

// bodyField is the name of the only field of an answer, if that is a google.api.HttpBody.
func bodyField(answer protoreflect.MessageDescriptor) string {
	if answer.Fields().Len() != 1 {
		return ""
	}
	field := answer.Fields().Get(0)
	if field.Message() == nil || field.IsList() || field.Message().FullName() != "google.api.HttpBody" {
		return ""
	}
	return string(field.Name())
}

// Fields are those of the request that the path names, in its order.
func (r *Route) Fields() []protoreflect.FieldDescriptor {
	var all []protoreflect.FieldDescriptor
	for _, s := range r.segments {
		if s.field != nil {
			all = append(all, s.field)
		}
	}
	return all
}

// ReadOnly reports whether a method promises to change nothing: its annotation is a GET.
func ReadOnly(method protoreflect.MethodDescriptor) bool {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	return rule.GetGet() != ""
}

func routesOf(procedure string, method protoreflect.MethodDescriptor) ([]*Route, error) {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	if rule == nil {
		return nil, fmt.Errorf("%s has no google.api.http annotation", procedure)
	}
	var routes []*Route
	for i, rule := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		route, err := routeOf(procedure, method, rule)
		if err != nil {
			return nil, fmt.Errorf("annotation of %s: %w", procedure, err)
		}
		route.Binding = i
		routes = append(routes, route)
	}
	return routes, nil
}

func routeOf(procedure string, method protoreflect.MethodDescriptor, rule *annotations.HttpRule) (*Route, error) {
	r := &Route{Procedure: procedure, Descriptor: method, HasBody: rule.GetBody() == "*"}
	switch pattern := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		r.Method, r.Path = http.MethodGet, pattern.Get
	case *annotations.HttpRule_Post:
		r.Method, r.Path = http.MethodPost, pattern.Post
	case *annotations.HttpRule_Put:
		r.Method, r.Path = http.MethodPut, pattern.Put
	case *annotations.HttpRule_Patch:
		r.Method, r.Path = http.MethodPatch, pattern.Patch
	case *annotations.HttpRule_Delete:
		r.Method, r.Path = http.MethodDelete, pattern.Delete
	default:
		return nil, fmt.Errorf("%T is not supported", pattern)
	}
	switch {
	case rule.GetBody() != "" && rule.GetBody() != "*":
		return nil, fmt.Errorf(`a body can only be "*", the whole message`)
	case rule.GetResponseBody() != bodyField(method.Output()):
		return nil, fmt.Errorf("response_body must be %q: the field of an answer that has nothing but a google.api.HttpBody", bodyField(method.Output()))
	case r.HasBody != (r.Method != http.MethodGet && r.Method != http.MethodDelete):
		return nil, fmt.Errorf("%s with the body %q", r.Method, rule.GetBody())
	case method.IsStreamingClient():
		return nil, fmt.Errorf("a stream of requests cannot be sent")
	}
	if err := r.parse(); err != nil {
		return nil, fmt.Errorf("path %q: %w", r.Path, err)
	}
	var err error
	if r.request, err = protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName()); err != nil {
		r.request = dynamicpb.NewMessageType(method.Input())
	}
	return r, nil
}

func (r *Route) parse() error {
	path, found := strings.CutPrefix(r.Path, "/")
	if !found {
		return fmt.Errorf("must begin with /")
	}
	path, r.verb, found = strings.Cut(path, ":")
	if found && r.verb == "" || strings.ContainsAny(r.verb, "/:{}") {
		return fmt.Errorf("the verb is no word")
	}
	for part := range strings.SplitSeq(path, "/") {
		name, isField := strings.CutPrefix(part, "{")
		name, closed := strings.CutSuffix(name, "}")
		switch {
		case !isField && !closed && part != "" && !strings.ContainsAny(part, "{}*="):
			r.segments = append(r.segments, segment{word: part})
		case isField && closed:
			field := r.Descriptor.Input().Fields().ByName(protoreflect.Name(name))
			if field == nil || field.Kind() != protoreflect.StringKind || field.IsList() {
				return fmt.Errorf("{%s} is no string field of %s", name, r.Descriptor.Input().FullName())
			}
			r.segments = append(r.segments, segment{field: field})
		default:
			return fmt.Errorf("%q is neither a word nor a {field}", part)
		}
	}
	return nil
}

// node is a place in the tree of all paths.
type node struct {
	words map[string]*node
	field *node
	ends  map[string]*end // by verb
}

// end is where paths end: the methods that they have.
type end struct{ methods map[string]*Route }

func (n *node) insert(r *Route) error {
	for _, s := range r.segments {
		next := n.words[s.word]
		switch {
		case s.field != nil:
			if n.field == nil {
				n.field = &node{}
			}
			next = n.field
		case next == nil:
			if n.words == nil {
				n.words = map[string]*node{}
			}
			next = &node{}
			n.words[s.word] = next
		}
		n = next
	}
	if n.ends == nil {
		n.ends = map[string]*end{}
	}
	at := n.ends[r.verb]
	if at == nil {
		at = &end{methods: map[string]*Route{}}
		n.ends[r.verb] = at
	}
	if other := at.methods[r.Method]; other != nil {
		return fmt.Errorf("%s %s means both %s and %s", r.Method, r.Path, other.Procedure, r.Procedure)
	}
	at.methods[r.Method] = r
	return nil
}

// match finds the end of a path as it was sent: escaped, so that a slash or colon within a value stays part of it.
func (n *node) match(path string) *end {
	path, found := strings.CutPrefix(path, "/")
	if !found {
		return nil
	}
	path, verb, found := cutVerb(path)
	if found && verb == "" {
		return nil
	}
	return n.find(path, verb)
}

// cutVerb cuts off what is behind the colon of the last segment.
func cutVerb(path string) (before, verb string, found bool) {
	last := strings.LastIndexByte(path, '/') + 1
	before, verb, found = strings.Cut(path[last:], ":")
	return path[:last] + before, verb, found
}

func (n *node) find(path, verb string) *end {
	part, rest, more := strings.Cut(path, "/")
	for _, next := range []*node{n.words[part], n.field} { // a word before a field
		switch {
		case next == nil || part == "":
		case more:
			if found := next.find(rest, verb); found != nil {
				return found
			}
		case next.ends[verb] != nil:
			return next.ends[verb]
		}
	}
	return nil
}

// valuesIn are the values of the fields in a path that matched.
func (r *Route) valuesIn(path string) map[string]string {
	path, _, _ = cutVerb(path[1:])
	values := map[string]string{}
	i := 0
	for part := range strings.SplitSeq(path, "/") {
		if field := r.segments[i].field; field != nil {
			value, err := url.PathUnescape(part)
			if err != nil {
				value = part // net/http has refused such a path already
			}
			values[string(field.Name())] = value
		}
		i++
	}
	return values
}
