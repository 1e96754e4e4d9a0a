// Package openapi writes the REST API down as an OpenAPI 3.1 document: paths from the annotations of the protos, schemas from
// their messages and the rules on their fields, descriptions from their comments, and who may call what from the
// authorization table. Nothing of it is written twice.
package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"chom.dev/controlplane/rest"
)

// Access is who may call a method and how often, as the authorization table says.
type Access struct {
	// Words say it to a person.
	Words string
	// Anybody may call without a proof.
	Anybody bool
	// SessionOnly says that no token will do.
	SessionOnly bool
	// Class is the class of limits that calls count in.
	Class string
}

// Document is the description of all methods, which must come with their comments.
func Document(methods map[string]protoreflect.MethodDescriptor, access func(procedure string) Access) ([]byte, error) {
	router, err := rest.New(methods)
	if err != nil {
		return nil, err
	}
	s := newSchemas(methods)
	paths, tags, tagged := of(), list{}, map[string]bool{}
	for _, route := range router.Routes() {
		path, ok := paths.values[route.Path].(*object)
		if !ok {
			path = of()
			paths.names = append(paths.names, route.Path)
			paths.values[route.Path] = path
		}
		path.set(strings.ToLower(route.Method), s.operation(route, access(route.Procedure)))
		if name := tagOf(route); !tagged[name] {
			tagged[name] = true
			tags = append(tags, of("name", name, "description", comment(route.Descriptor.Parent())))
		}
	}
	document := of(
		"openapi", "3.1.1",
		"info", of("title", "CHOM", "version", "v1", "description", overview),
		"servers", list{of("url", "/", "description", "This control plane")},
		"tags", tags,
		"paths", paths,
		"components", of(
			"schemas", s.all(),
			"responses", of("Problem", of(
				"description", "The call failed. The type says how, and is explained in the documentation.",
				"headers", of("X-Request-Id", headerRef("X-Request-Id"), "Retry-After", headerRef("Retry-After")),
				"content", of("application/problem+json", of("schema", ref("Problem"))),
			)),
			"headers", headers(),
			"parameters", of("IdempotencyKey", of(
				"name", "Idempotency-Key", "in", "header",
				"description", "The caller's own name for this call. A repeat with the same key gets the first one's answer, for 24 hours, and has no second effect.",
				"schema", of("type", "string", "pattern", "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"),
			)),
			"securitySchemes", of(
				"token", of("type", "http", "scheme", "bearer", "description", "An API token."),
				"session", of("type", "apiKey", "in", "cookie", "name", "__Host-chom_session", "description", "The session of a browser. A control plane without HTTPS calls the cookie chom_session."),
			),
		),
	)
	text, err := plainJSON(document)
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	indented.WriteByte('\n')
	return indented.Bytes(), nil
}

// overview is what holds for all calls.
const overview = `The API of the CHOM control plane. Everything that the dashboard can do, this API can.

**Who calls.** Send a token as ` + "`Authorization: Bearer <token>`" + `. Browsers have a session in a cookie instead. ` + "`/api/docs/authorization`" + ` is the table of who may call what.

**Names** are in snake_case; requests may use lowerCamelCase. Answers hold every field but unset objects. A field or parameter that does not exist is refused. Integers of 64 bits are texts in answers.

**Lists** come in pages: give the ` + "`next_page_token`" + ` of one page as ` + "`page_token`" + ` of the next, with everything else unchanged.

**Updates** change the fields that are sent, or those that ` + "`update_mask`" + ` names. With ` + "`If-Match`" + ` and the ` + "`ETag`" + ` of what was read, an update happens only if nobody has changed the thing since.

**Repeats.** A call with an effect can be sent again safely with the same ` + "`Idempotency-Key`" + `.

**Limits.** Each answer says how many calls of its class a minute has (` + "`RateLimit-Limit`" + `), how many are left (` + "`RateLimit-Remaining`" + `) and in how many seconds the next one becomes free (` + "`RateLimit-Reset`" + `), as in draft-ietf-httpapi-ratelimit-headers-06. Beyond that, calls fail with status 429 and ` + "`Retry-After`" + `.

**Failures** are ` + "`application/problem+json`" + ` (RFC 9457).

**Streams** are lines of JSON. If one fails midway, its last line is ` + "`{\"error\": <problem>}`" + `.

The same calls exist by Connect, gRPC and gRPC-Web.`

func tagOf(route *rest.Route) string {
	return strings.TrimSuffix(string(route.Descriptor.Parent().Name()), "Service")
}

func (s *schemas) operation(route *rest.Route, access Access) *object {
	method := route.Descriptor
	text := comment(method)
	id := string(method.Name())
	if route.Binding > 0 {
		id += strconv.Itoa(route.Binding + 1)
	}
	o := of(
		"operationId", id,
		"summary", summary(method),
		"description", text+"\n\n**Who may call.** "+access.Words,
		"tags", list{tagOf(route)},
		"parameters", s.parameters(route, access),
	)
	if route.HasBody {
		o.set("requestBody", of(
			"required", s.needed(route) != nil,
			"content", of("application/json", of("schema", s.body(route))),
		))
	}
	o.set("responses", s.responses(route))
	by := func(scheme string) map[string][]string { return map[string][]string{scheme: {}} }
	proofs := []map[string][]string{by("token"), by("session")}
	switch {
	case access.Anybody:
		proofs = proofs[:0]
	case access.SessionOnly:
		proofs = proofs[1:]
	}
	o.set("security", proofs)
	return o.set("x-chom-procedure", route.Procedure).set("x-chom-limit", access.Class)
}

// summary is the first sentence of a method's comment, without its name.
func summary(method protoreflect.MethodDescriptor) string {
	first, _, _ := strings.Cut(strings.TrimSuffix(comment(method), "."), ". ")
	first, _, _ = strings.Cut(first, "\n")
	first = strings.TrimPrefix(first, string(method.Name())+" ")
	return strings.ToUpper(first[:min(1, len(first))]) + first[min(1, len(first)):]
}

func (s *schemas) parameters(route *rest.Route, access Access) list {
	var all list
	input := route.Descriptor.Input()
	inPath := map[protoreflect.Name]bool{}
	for _, field := range route.Fields() {
		inPath[field.Name()] = true
		all = append(all, of("name", string(field.Name()), "in", "path", "required", true, "description", comment(field), "schema", s.field(field)))
	}
	if !route.HasBody {
		for i := range input.Fields().Len() {
			field := input.Fields().Get(i)
			if inPath[field.Name()] || field.Name() == "etag" {
				continue
			}
			p := of("name", string(field.Name()), "in", "query")
			if mustHave(field) {
				p.set("required", true)
			}
			all = append(all, p.set("description", comment(field)).set("schema", s.field(field)))
		}
	}
	if input.Fields().ByName("etag") != nil {
		all = append(all, of("name", "If-Match", "in", "header", "description", "The ETag of the thing as it was read.", "schema", of("type", "string")))
	}
	if !rest.ReadOnly(route.Descriptor) && !access.Anybody {
		all = append(all, of("$ref", "#/components/parameters/IdempotencyKey"))
	}
	return all
}

func (s *schemas) responses(route *rest.Route) *object {
	schema, kind := ref(s.name(route.Descriptor.Output())), "application/json"
	description := comment(route.Descriptor.Output())
	switch {
	case route.Raw():
		schema, kind = nil, "*/*"
		description = "The file."
	case route.Streams():
		kind = "application/x-ndjson"
		description += " One line for each message."
	}
	head := of(
		"X-Request-Id", headerRef("X-Request-Id"),
		"RateLimit-Limit", headerRef("RateLimit-Limit"),
		"RateLimit-Remaining", headerRef("RateLimit-Remaining"),
		"RateLimit-Reset", headerRef("RateLimit-Reset"),
	)
	if hasETag(route.Descriptor.Output()) {
		head.set("ETag", headerRef("ETag"))
	}
	media := of()
	media.set("schema", schema)
	content := of()
	content.names, content.values[kind] = []string{kind}, media
	failed := of("$ref", "#/components/responses/Problem")
	r := of("200", of("description", description, "headers", head, "content", content))
	for _, status := range []int{400, 401, 403, 404, 409, 429} {
		r.set(strconv.Itoa(status), failed)
	}
	if route.Descriptor.Input().Fields().ByName("etag") != nil {
		r.set("412", failed)
	}
	return r.set("default", failed)
}

// hasETag reports whether an answer is about one thing that can be updated.
func hasETag(answer protoreflect.MessageDescriptor) bool {
	for i := range answer.Fields().Len() {
		field := answer.Fields().Get(i)
		if field.Message() != nil && !field.IsList() && !field.IsMap() && field.Message().Fields().ByName("etag") != nil {
			return true
		}
	}
	return false
}

func headerRef(name string) *object { return of("$ref", "#/components/headers/"+name) }

func headers() *object {
	header := func(kind, text string) *object {
		return of("description", text, "schema", of("type", kind))
	}
	return of(
		"X-Request-Id", header("string", "What the control plane's log calls this call."),
		"ETag", header("string", "Names the thing as it is now; send it back as If-Match."),
		"Retry-After", header("integer", "Seconds to wait before the same call may succeed."),
		"RateLimit-Limit", header("integer", "Calls of this class that a minute has."),
		"RateLimit-Remaining", header("integer", "Calls of this class that are left."),
		"RateLimit-Reset", header("integer", "Seconds until the next call of this class becomes free."),
	)
}

// comment is what a proto says of a thing, as running text with its paragraphs and drawings.
func comment(d protoreflect.Descriptor) string {
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSpace(d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments), "\n") {
		line = strings.TrimPrefix(line, " ")
		drawn := strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "  ")
		switch {
		case i == 0:
		case drawn || line == "" || strings.HasSuffix(out.String(), "\n"):
			out.WriteByte('\n')
		default:
			out.WriteByte(' ')
		}
		out.WriteString(strings.ReplaceAll(line, "\t", "    "))
		if drawn {
			out.WriteByte('\n')
		}
	}
	return strings.TrimSpace(strings.ReplaceAll(out.String(), "\n\n\n", "\n\n"))
}
