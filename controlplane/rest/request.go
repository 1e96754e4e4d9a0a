package rest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxBody is the most bytes that a body may have; the largest request we know has 300 KiB.
const MaxBody = 1 << 20

// TooLarge is the Reason in the ErrorInfo of a body above MaxBody, which is told from a limit of calls by it.
const TooLarge = "BODY_TOO_LARGE"

// readable reports whether a request says that its body is JSON, or has none.
func readable(route *Route, r *http.Request) bool {
	if !route.HasBody || r.ContentLength == 0 && r.Header.Get("Content-Type") == "" {
		return true
	}
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := parameters["charset"]
	return err == nil && kind == "application/json" && (charset == "" || strings.EqualFold(charset, "utf-8")) &&
		len(r.Header.Values("Content-Type")) == 1 && r.Header.Get("Content-Encoding") == ""
}

// translated is a request as Connect would have sent it. Its body is made when it is read.
func translated(r *http.Request, route *Route, values map[string]string) *http.Request {
	to := r.WithContext(context.WithValue(r.Context(), restKey{}, true))
	to.Method, to.URL = http.MethodPost, &url.URL{Path: route.Procedure}
	to.ContentLength, to.TransferEncoding = -1, nil
	to.Header = make(http.Header, len(r.Header))
	for name, value := range r.Header {
		// What is about the body is about another one now, and what Connect reads is not for callers by REST.
		if name != "Content-Length" && name != "Content-Encoding" && name != "Accept-Encoding" && !strings.HasPrefix(name, "Connect-") {
			to.Header[name] = value
		}
	}
	kind := contentUnary
	if route.Streams() {
		kind = contentStream
	}
	to.Header["Content-Type"] = []string{kind}
	to.Body = &body{
		Closer: r.Body, from: r.Body, route: route, values: values, query: r.URL.RawQuery, ifMatch: r.Header.Values("If-Match"),
	}
	return to
}

// body is a request's message in Connect's encoding. It reads from the caller when it is first read.
type body struct {
	io.Closer
	from    io.Reader
	route   *Route
	values  map[string]string
	query   string
	ifMatch []string

	made *bytes.Reader
}

func (b *body) Read(p []byte) (int, error) {
	if b.made == nil {
		message, err := b.message()
		if err != nil {
			return 0, err // connect passes its own kind of error on as it is
		}
		encoded, err := proto.Marshal(message.Interface())
		if err != nil {
			return 0, refused("", "a text is not valid UTF-8")
		}
		if b.route.Streams() { // an envelope: no flags, length, message
			encoded = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(encoded))), encoded...)
		}
		b.made = bytes.NewReader(encoded)
	}
	return b.made.Read(p)
}

func (b *body) message() (protoreflect.Message, error) {
	message := b.route.request.New()
	if err := b.fromBody(message); err != nil {
		return nil, err
	}
	for _, field := range b.route.Fields() {
		if message.Has(field) {
			return nil, refused(string(field.Name()), "is in the path already")
		}
	}
	if err := b.fromQuery(message); err != nil {
		return nil, err
	}
	for _, field := range b.route.Fields() {
		if err := setText(message, field, b.values[string(field.Name())]); err != nil {
			return nil, err
		}
	}
	return message, setETag(message, b.ifMatch)
}

func (b *body) fromBody(message protoreflect.Message) error {
	text, err := io.ReadAll(io.LimitReader(b.from, MaxBody+1))
	switch {
	case err != nil:
		return err
	case len(text) > MaxBody:
		return tooLarge()
	case !b.route.HasBody && len(text) > 0:
		return refused("", "a "+b.route.Method+" has no body; its parameters stand in the query")
	case len(bytes.TrimSpace(text)) == 0:
		return nil
	}
	var paths []string
	mask := message.Descriptor().Fields().ByName(maskField)
	if mask != nil && b.route.Method == http.MethodPatch {
		if paths, text, err = b.takeMask(mask, text); err != nil {
			return err
		}
	}
	if err := protojson.Unmarshal(text, message.Interface()); err != nil { // it empties the message first
		return fromJSON(err)
	}
	if len(paths) > 0 {
		list := message.Mutable(mask).Message().Mutable(mask.Message().Fields().ByName("paths")).List()
		for _, path := range paths {
			list.Append(protoreflect.ValueOfString(path))
		}
	}
	return nil
}

// maskField names the fields that an update changes.
const maskField = "update_mask"

// takeMask reads the mask of an update, and gives the body without it: protojson knows only lowerCamelCase in masks. An
// update without one changes the fields that its body has.
func (b *body) takeMask(mask protoreflect.FieldDescriptor, text []byte) (paths []string, left []byte, err error) {
	var sent map[string]json.RawMessage
	if err := json.Unmarshal(text, &sent); err != nil {
		return nil, nil, refused("", "the body is not a JSON object of this request")
	}
	given := false
	for name, value := range sent {
		field := byName(mask.ContainingMessage(), name)
		switch {
		case field == mask && given:
			return nil, nil, refused(maskField, "must be given once")
		case field == mask:
			var list string
			if err := json.Unmarshal(value, &list); err != nil {
				return nil, nil, refused(maskField, "must be names of fields with commas between them")
			}
			given, paths = true, strings.Split(list, ",")
			delete(sent, name)
		case !given && field != nil && field.Name() != etagField && !slices.Contains(b.route.Fields(), field):
			paths = append(paths, string(field.Name()))
		}
	}
	slices.Sort(paths)
	for i, path := range paths {
		if paths[i] = snake(path); !plainName.MatchString(path) {
			return nil, nil, refused(maskField, "must be names of fields with commas between them")
		}
	}
	left, err = json.Marshal(sent)
	return paths, left, err
}

func (b *body) fromQuery(message protoreflect.Message) error {
	parameters, err := url.ParseQuery(b.query)
	if err != nil {
		return refused("", "the query is not well formed")
	}
	for name, values := range parameters {
		field := byName(message.Descriptor(), name)
		switch {
		case field == nil || b.route.HasBody:
			return refused(plain(name), "there is no such parameter")
		case slices.Contains(b.route.Fields(), field):
			return refused(string(field.Name()), "is in the path already")
		case len(values) > 1 && !field.IsList():
			return refused(string(field.Name()), "must be given once")
		}
		for _, value := range values {
			if err := setText(message, field, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// byName finds a field by its name in the proto or in JSON.
func byName(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if field := d.Fields().ByName(protoreflect.Name(name)); field != nil {
		return field
	}
	return d.Fields().ByJSONName(name)
}

var unknownField = regexp.MustCompile(`unknown field "([^"]*)"`)

// invalidField is how protojson names, in lowerCamelCase, the field whose value it could not read.
var invalidField = regexp.MustCompile(`invalid value for [a-z0-9]+ field ([A-Za-z0-9]+)`)

var upper = regexp.MustCompile(`[A-Z]`)

// snake is a name in lowerCamelCase as the protos have it.
func snake(name string) string {
	return upper.ReplaceAllStringFunc(name, func(letter string) string { return "_" + strings.ToLower(letter) })
}

// fromJSON says what is wrong with a body without repeating any of its values.
func fromJSON(err error) error {
	if found := unknownField.FindStringSubmatch(err.Error()); found != nil {
		return refused(plain(found[1]), "there is no such field")
	}
	if found := invalidField.FindStringSubmatch(err.Error()); found != nil {
		return refused(plain(snake(found[1])), "the value is of another type")
	}
	return refused("", "the body is not a JSON object of this request")
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_.]{1,63}$`)

// plain is a name as it may be repeated; a stranger's text that is none is left out.
func plain(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return ""
}

// refused is an InvalidArgument that names a field, if there is one.
func refused(field, rule string) error {
	text := rule
	if field != "" {
		text = field + ": " + rule
	}
	err := connect.NewError(connect.CodeInvalidArgument, errors.New(text))
	detail := &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: rule}}}
	if d, wrong := connect.NewErrorDetail(detail); wrong == nil && field != "" {
		err.AddDetail(d)
	}
	return err
}

func tooLarge() error {
	err := connect.NewError(connect.CodeResourceExhausted, errors.New("the body is larger than 1 MiB"))
	if d, wrong := connect.NewErrorDetail(&errdetails.ErrorInfo{Reason: TooLarge}); wrong == nil {
		err.AddDetail(d)
	}
	return err
}
