package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// maxBody is more than the control plane reads.
const maxBody = 16 << 20

func (p *program) apiCommand() *cobra.Command {
	var fields, typed []string
	var input string
	cmd := &cobra.Command{
		Use:   "api METHOD PATH",
		Short: "Make any call of the REST API",
		Long: `Api makes a call of the REST API with the token of the context and prints the answer. The path may leave out
/api/v1, and {organization} in it stands for the organization of --organization or of the context.

Fields are parameters of GET and DELETE, and make a JSON object for all others; limits.memory_bytes=1 is a field within
a field. -f takes the value as text, -F as JSON: numbers, true, false, lists. A change is sent with an
Idempotency-Key, so that it is safe that it is repeated while the control plane does not answer.`,
		Example: `  chom api GET caller
  chom api GET '/api/v1/organizations/{organization}/sites' -f page_size=10
  chom api POST '/organizations/{organization}/sites' -f name=blog -f type=static -F 'domains=["blog.example.com"]'
  chom api POST organizations --input organization.json`,
		Args:              exactly(2),
		ValidArgsFunction: first(fixed(methods...)),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		method := strings.ToUpper(args[0])
		if !slices.Contains(methods, method) {
			return usagef("METHOD must be one of %s", strings.Join(methods, ", "))
		}
		path, err := p.apiPath(ctx, c, args[1])
		if err != nil {
			return err
		}
		values, err := fieldsOf(fields, typed)
		if err != nil {
			return err
		}
		var body []byte
		switch {
		case input != "" && len(values) > 0:
			return usagef("--input and fields exclude each other")
		case input != "":
			body, err = p.readInput(input)
		case method == http.MethodGet || method == http.MethodDelete:
			path, err = withQuery(path, values)
		default:
			body, err = json.Marshal(nested(values))
		}
		if err != nil {
			return err
		}
		return p.callAPI(ctx, c, method, path, body)
	})
	cmd.Flags().StringArrayVarP(&fields, "field", "f", nil, "a field as name=text; several times for more")
	cmd.Flags().StringArrayVarP(&typed, "json-field", "F", nil, "a field as name=JSON; several times for more")
	cmd.Flags().StringVar(&input, "input", "", "file that holds the body; - for standard input")
	return p.organizationFlag(cmd)
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// apiPath is the path of a call, within the API of this control plane and nowhere else.
func (p *program) apiPath(ctx context.Context, c *client, path string) (string, error) {
	if strings.Contains(path, "://") {
		return "", usagef("PATH must be a path of the control plane, without its URL")
	}
	path = "/" + strings.TrimPrefix(path, "/")
	if !strings.HasPrefix(path, "/api/") {
		path = "/api/v1" + path
	}
	if strings.Contains(path, organizationHole) {
		id, err := p.organizationID(ctx, c)
		if err != nil {
			return "", err
		}
		path = strings.ReplaceAll(path, organizationHole, id)
	}
	return path, nil
}

const organizationHole = "{organization}"

func (p *program) readInput(name string) ([]byte, error) {
	from := p.in
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--input: %w", err)
		}
		defer file.Close()
		from = file
	}
	body, err := io.ReadAll(io.LimitReader(from, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = errors.New("more than 16 MiB")
	}
	if err != nil {
		return nil, fmt.Errorf("--input: %w", err)
	}
	return body, nil
}

// field is one that a flag names: its value is text, or any JSON.
type field struct {
	name  string
	value any
}

func fieldsOf(texts, typed []string) ([]field, error) {
	var all []field
	for i, pair := range append(slices.Clone(texts), typed...) {
		name, text, found := strings.Cut(pair, "=")
		if !found || name == "" {
			return nil, usagef("a field must be name=value")
		}
		f := field{name, text}
		if i >= len(texts) {
			if !json.Valid([]byte(text)) {
				return nil, usagef("-F %s: must be JSON; -f takes text", plain(name))
			}
			f.value = json.RawMessage(text)
		}
		all = append(all, f)
	}
	return all, nil
}

func withQuery(path string, fields []field) (string, error) {
	u, err := url.Parse(path)
	if err != nil {
		return "", usagef("PATH is none: %s", err)
	}
	query := u.Query()
	for _, f := range fields {
		query.Add(f.name, fmt.Sprintf("%s", f.value))
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// nested is the object that fields make whose names may be paths.
func nested(fields []field) map[string]any {
	object := map[string]any{}
	for _, f := range fields {
		in, path := object, strings.Split(f.name, ".")
		for _, name := range path[:len(path)-1] {
			inner, ok := in[name].(map[string]any)
			if !ok {
				inner = map[string]any{}
				in[name] = inner
			}
			in = inner
		}
		in[path[len(path)-1]] = f.value
	}
	return object
}

// callAPI makes the call and prints what comes. JSON is laid out; a stream of it and anything else is passed on as it comes.
func (p *program) callAPI(ctx context.Context, c *client, method, path string, body []byte) error {
	key := keyFor(nil)
	var answer *http.Response
	err := c.patiently(ctx, func() error {
		request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
		if err != nil {
			return usagef("PATH is none: %s", err)
		}
		c.sign(request.Header)
		if body != nil {
			request.Header.Set("Content-Type", "application/json")
		}
		if method != http.MethodGet {
			request.Header.Set(keyHeader, key)
		}
		answer, err = c.http.Do(request) //nolint:bodyclose // closed below
		if err != nil {
			return connect.NewError(connect.CodeUnavailable, err)
		}
		if answer.StatusCode >= http.StatusMultipleChoices { // a token follows no redirection
			defer answer.Body.Close()
			return p.refused(answer)
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type")); kind != "application/json" {
		_, err := io.Copy(p.out, answer.Body)
		return err
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if p.quiet {
		return nil
	}
	return p.printRaw(text)
}

// refused is a failure as REST tells it, in the form of all others.
func (p *program) refused(answer *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	var told struct {
		Type       string
		Detail     string
		RetryAfter int    `json:"retry_after"`
		RequestID  string `json:"request_id"`
		Errors     []struct{ Field, Rule string }
	}
	if err := json.Unmarshal(text, &told); err != nil || told.Detail == "" {
		told.Detail = "the answer is " + answer.Status
	}
	failure := connect.NewError(codeOf(told.Type, answer.StatusCode), errors.New(told.Detail))
	if told.Type != "" { // the control plane's own answer, not that of a proxy which misses it
		failure = connect.NewWireError(failure.Code(), errors.New(told.Detail))
	}
	failure.Meta().Set("X-Request-Id", told.RequestID)
	broken := &errdetails.BadRequest{}
	for _, e := range told.Errors {
		broken.FieldViolations = append(broken.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: e.Field, Description: e.Rule})
	}
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(told.RetryAfter) * time.Second)}
	for _, message := range []proto.Message{broken, retry} {
		d, err := connect.NewErrorDetail(message)
		if err != nil {
			return err
		}
		failure.AddDetail(d)
	}
	return failure
}

// codeOf is the code of a problem's type, which ends with it, or of a status: what stands in front of the control plane knows no types.
func codeOf(kind string, status int) connect.Code {
	var code connect.Code
	_, name, _ := strings.Cut(kind, "#")
	switch {
	case code.UnmarshalText([]byte(name)) == nil:
		return code
	case status == http.StatusForbidden:
		return connect.CodePermissionDenied
	case status == http.StatusNotFound:
		return connect.CodeNotFound
	case status < http.StatusInternalServerError:
		return connect.CodeInvalidArgument
	case status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout:
		return connect.CodeUnavailable
	}
	return connect.CodeUnknown
}
