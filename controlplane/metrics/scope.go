package metrics

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Scope is what a caller may see. The zero value is nothing.
type Scope struct {
	organization string // empty for the platform
	matchers     []*labels.Matcher
}

// OfOrganization is all that is an organization's; of sites only those in reach, which nil sets no bound to.
func OfOrganization(organization contract.OrganizationID, reach []string) Scope {
	if organization.IsZero() {
		return Scope{} // what has no organization is not everybody's
	}
	s := Scope{organization: organization.String(), matchers: []*labels.Matcher{
		labels.MustNewMatcher(labels.MatchEqual, organizationLabel, organization.String()),
	}}
	if reach == nil {
		return s
	}
	var ids []string
	for _, site := range reach {
		if id, err := contract.ParseSiteID(site); err == nil {
			ids = append(ids, id.String())
		}
	}
	if len(ids) == 0 {
		return Scope{} // not an empty expression, which what is no site's would match
	}
	slices.Sort(ids)
	s.matchers = append(s.matchers, labels.MustNewMatcher(labels.MatchRegexp, siteLabel, strings.Join(ids, "|")))
	return s
}

// OfPlatform is all servers' own series, and no site's. It is for operators.
func OfPlatform() Scope {
	return Scope{matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, siteLabel, "")}}
}

// nothing says that no series is in the scope.
func (s Scope) nothing() bool { return len(s.matchers) == 0 }

// narrow adds the scope to every selector of a parsed expression. What the expression says of the same labels stays: both hold.
func (s Scope) narrow(expr parser.Expr) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			selector.LabelMatchers = append(slices.Clone(selector.LabelMatchers), s.matchers...)
		}
		return nil
	})
}

// wall is the storage as the engine sees it: it selects nothing without the scope's matchers. narrow adds them before; what gets
// here without them is a bug, and an error instead of a stranger's series.
type wall struct {
	storage.Queryable
	scope Scope
}

// Querier implements storage.Queryable.
func (w wall) Querier(from, to int64) (storage.Querier, error) {
	q, err := w.Queryable.Querier(from, to)
	if err != nil {
		return nil, err
	}
	return walled{q, w.scope}, nil
}

type walled struct {
	storage.Querier
	scope Scope
}

var errWall = errors.New("a selector got past the scope of its caller")

// Select implements storage.Querier.
func (w walled) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	if w.scope.nothing() {
		return storage.ErrSeriesSet(errWall)
	}
	for _, must := range w.scope.matchers {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool {
			return m.Type == must.Type && m.Name == must.Name && m.Value == must.Value
		}) {
			return storage.ErrSeriesSet(errWall)
		}
	}
	return w.Querier.Select(ctx, sorted, hints, matchers...)
}

// LabelValues implements storage.Querier. No expression needs it.
func (w walled) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errWall
}

// LabelNames implements storage.Querier. No expression needs it.
func (w walled) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errWall
}

// narrowed is an expression with the scope in it, in words that the engine reads, and its type.
func (s Scope) narrowed(query string) (text string, kind parser.ValueType, err error) {
	expr, err := expressions.ParseExpr(query)
	if err != nil {
		return "", "", fault.Invalid("query", "must be PromQL: "+err.Error())
	}
	s.narrow(expr)
	return expr.String(), expr.Type(), nil
}
