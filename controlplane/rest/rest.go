// Package rest speaks REST for services that speak Connect: it finds the method that a URL means by the google.api.http
// annotations of the protos, hands the call on under the method's own path, and turns the answer into plain JSON and a
// failure into application/problem+json (RFC 9457).
//
//	PATCH /api/v1/organizations/7f../sites/0b..        POST /chom.site.v1.SiteService/UpdateSite
//	{"limits": {"cpu_percent": 50}}               -->  the same request as a message
//	200 {"site": {...}}                           <--  the answer as a message
//
// It decides nothing. What stands between it and the services (who calls, whether they may, how often) sees the same path
// as for a call by Connect, and sees it before a byte of the body is read: the message is made when the service first reads.
//
// # The JSON
//
// Names are those of the protos (snake_case), in both directions; lowerCamelCase is understood too. Answers hold every field
// but unset messages. A field or parameter that does not exist is refused, so that a misspelt one is not lost in silence. A
// stream is a line of JSON for each message (application/x-ndjson), and {"error": {...}} as its last line if it fails;
// an answer that is nothing but a google.api.HttpBody
// is sent as the bytes that it holds.
//
// # Why not vanguard
//
// connectrpc.com/vanguard 0.3.0 transcodes the same annotations, but no streams of messages, which half of a task's life
// is; it lets a query parameter replace what the path says, so that one request would name two tenants; its errors are
// google.rpc.Status and cannot be changed; and it reads each answer back before it writes it.
package rest

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Router finds the method that an HTTP request means. It is immutable.
type Router struct {
	root   *node
	routes []*Route
}

// New reads the annotations of methods, which are given by their procedure ("/chom.site.v1.SiteService/GetSite"). It refuses a
// method without one, and what Route cannot express.
func New(methods map[string]protoreflect.MethodDescriptor) (*Router, error) {
	r := &Router{root: &node{}}
	for procedure, method := range methods {
		routes, err := routesOf(procedure, method)
		if err != nil {
			return nil, err
		}
		for _, route := range routes {
			if err := r.root.insert(route); err != nil {
				return nil, err
			}
		}
		r.routes = append(r.routes, routes...)
	}
	slices.SortFunc(r.routes, func(a, b *Route) int {
		return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method)
	})
	return r, nil
}

// Routes are all that there are, by path.
func (r *Router) Routes() []*Route { return r.routes }

// Handler answers requests whose URL means a method by calling next with the method's procedure as path, and all others with
// a problem. next must serve the procedures by Connect with the option WithCodec(Codec{}).
//
// No byte of a body is read before next reads.
func (r *Router) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		route, values, allowed := r.find(request.Method, request.URL.EscapedPath())
		switch {
		case route == nil && len(allowed) > 0:
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			WriteProblem(w, problemOf(http.StatusMethodNotAllowed, "this has the methods "+strings.Join(allowed, ", ")))
		case route == nil:
			WriteProblem(w, problemOf(http.StatusNotFound, "there is nothing at this path"))
		case !readable(route, request):
			WriteProblem(w, problemOf(http.StatusUnsupportedMediaType, "send the body as Content-Type: application/json, without a Content-Encoding"))
		default:
			a := answerTo(w, route)
			next.ServeHTTP(a, translated(request, route, values))
			a.close()
		}
	})
}

// find gives the route of a request, or the methods that its path has. HEAD is GET without the body, which net/http drops; a
// stream has none, since there it would run unseen.
func (r *Router) find(method, path string) (route *Route, values map[string]string, allowed []string) {
	found := r.root.match(path)
	if found == nil {
		return nil, nil, nil
	}
	if route := found.methods[method]; route != nil {
		return route, route.valuesIn(path), nil
	}
	if get := found.methods[http.MethodGet]; get != nil && method == http.MethodHead && !get.Streams() {
		return get, get.valuesIn(path), nil
	}
	for have, route := range found.methods {
		allowed = append(allowed, have)
		if have == http.MethodGet && !route.Streams() {
			allowed = append(allowed, http.MethodHead)
		}
	}
	slices.Sort(allowed)
	return nil, nil, allowed
}

type restKey struct{}

// Is reports whether a call came in by REST.
func Is(ctx context.Context) bool { return ctx.Value(restKey{}) != nil }
