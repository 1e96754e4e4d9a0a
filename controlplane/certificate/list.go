package certificate

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// Filter narrows a List. Its zero value shows all.
type Filter struct {
	// Alarms shows only those with an alarm.
	Alarms bool
	// Only are the sites that the caller reaches, UUIDs; nil for all.
	Only []string
}

// List returns a page of what an organization's names are served with, those first that end first, and the token of the next
// page, empty after the last. Names that never had a certificate come before all others. Of sites that move while somebody pages, one
// may be missed or come twice.
func (c *Certificates) List(ctx context.Context, organization contract.OrganizationID, size int32, token string, filter Filter) ([]Certificate, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	only := strings.Join(filter.Only, " ")
	query := page.Query{"certificates", organization.String(), strconv.FormatBool(filter.Alarms), only}
	after, err := query.AfterPosition(token)
	if err != nil {
		return nil, "", err
	}
	ends, site, name := read(after)
	rows, err := c.db.Reader().Query(ctx, columns+`
		WHERE c.organization_id = $1
		  AND ($2 OR (c.ends_at, c.site_id, c.name) > ($3, $4, $5))
		  AND (NOT $6 OR c.alarm_at IS NOT NULL)
		  AND ($7 OR $8 LIKE '%' || c.site_id || '%')
		ORDER BY c.ends_at, c.site_id, c.name
		LIMIT $9`,
		organization, after == nil, ends, site, name, filter.Alarms, filter.Only == nil, only, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list certificates: %w", err)
	}
	found, err := scanAll(rows)
	if err != nil {
		return nil, "", fmt.Errorf("list certificates: %w", err)
	}
	next := ""
	if len(found) > limit {
		found = found[:limit]
		next = query.TokenAt(position(found[limit-1]))
	}
	return certificates(found), next, nil
}

// OfSite gives what all names of one site are served with, in order of the names. Those that its host does not report are missing.
func OfSite(ctx context.Context, q db.Querier, organization contract.OrganizationID, site contract.SiteID) ([]Certificate, error) {
	rows, err := q.Query(ctx, columns+`
		WHERE c.organization_id = $1
		  AND c.site_id = $2
		ORDER BY c.name`, organization, site)
	if err != nil {
		return nil, fmt.Errorf("read certificates of site %s: %w", site, err)
	}
	found, err := scanAll(rows)
	if err != nil {
		return nil, fmt.Errorf("read certificates of site %s: %w", site, err)
	}
	return certificates(found), nil
}

func certificates(rows []*row) []Certificate {
	var all []Certificate
	for _, r := range rows {
		all = append(all, r.Certificate)
	}
	return all
}

// position is where a row stands in a list.
func position(r *row) []byte {
	at := binary.BigEndian.AppendUint64(nil, uint64(db.Micros(r.ends)))
	site := uuid.MustParse(r.Site.String()) // it is one by its type
	return append(append(at, site[:]...), r.Name.String()...)
}

// read is the reverse; zero values for none. A token is not a right: whatever stands in it, only the caller's rows are read.
func read(position []byte) (ends int64, site, name string) {
	if len(position) < 8+16 {
		return 0, "", ""
	}
	return int64(binary.BigEndian.Uint64(position)), uuid.UUID(position[8:24]).String(), strings.ToValidUTF8(strings.ReplaceAll(string(position[24:]), "\x00", ""), "")
}
