package main

import (
	"cmp"
	"context"
	"strings"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"connectrpc.com/connect"
	"github.com/google/uuid"
)

// platform is the organization of work on servers themselves.
const platform = "00000000-0000-0000-0000-000000000000"

const largestPage = 500

func isID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// pages collects all pages of a list.
func pages[T any](next func(token string) (items []T, following string, err error)) ([]T, error) {
	var all []T
	for token := ""; ; {
		items, following, err := next(token)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if following == "" {
			return all, nil
		}
		token = following
	}
}

func (c *client) allOrganizations(ctx context.Context) ([]*organizationv1.Organization, error) {
	return pages(func(token string) ([]*organizationv1.Organization, string, error) {
		page, err := c.Organizations.ListOrganizations(ctx, &organizationv1.ListOrganizationsRequest{PageSize: largestPage, PageToken: token})
		return page.GetOrganizations(), page.GetNextPageToken(), err
	})
}

func (c *client) allServers(ctx context.Context) ([]*fleetv1.Server, error) {
	return pages(func(token string) ([]*fleetv1.Server, string, error) {
		page, err := c.Servers.ListServers(ctx, &fleetv1.ListServersRequest{PageSize: largestPage, PageToken: token})
		return page.GetServers(), page.GetNextPageToken(), err
	})
}

func (c *client) allSites(ctx context.Context, organization string, trashed bool, tags ...string) ([]*sitev1.Site, error) {
	return pages(func(token string) ([]*sitev1.Site, string, error) {
		page, err := c.Sites.ListSites(ctx, &sitev1.ListSitesRequest{OrganizationId: organization, PageSize: largestPage, PageToken: token, ShowTrashed: trashed, Tags: tags})
		return page.GetSites(), page.GetNextPageToken(), err
	})
}

// organizationID is the organization that --organization names, else that of the context, else the only one there is.
func (p *program) organizationID(ctx context.Context, c *client) (string, error) {
	wanted := cmp.Or(p.organization, p.home)
	if isID(wanted) {
		return wanted, nil
	}
	all, err := c.allOrganizations(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, o := range all {
		if o.GetName() == wanted {
			return o.GetId(), nil
		}
		names = append(names, plain(o.GetName()))
	}
	switch {
	case wanted != "":
		return "", notFoundf(near(wanted, names)+"see yours with: chom organization list", "there is no organization %q", plain(wanted))
	case len(all) == 0:
		return "", notFoundf("make one with: chom organization create NAME --owner EMAIL", "there is no organization yet")
	case len(all) > 1:
		return "", &problem{code: exitUsage, text: "there are several organizations", next: "say which with --organization: " + strings.Join(names, ", ") + "; or once with: chom context set --organization NAME"}
	}
	return all[0].GetId(), nil
}

// serverID is the server with a name or id. Removed servers are found by id only.
func (c *client) serverID(ctx context.Context, nameOrID string) (string, error) {
	if isID(nameOrID) {
		return nameOrID, nil
	}
	all, err := c.allServers(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, s := range all {
		if s.GetName() == nameOrID {
			return s.GetId(), nil
		}
		names = append(names, s.GetName())
	}
	return "", notFoundf(near(nameOrID, names)+"see them with: chom server list", "there is no server %q", plain(nameOrID))
}

// siteID is the site with a name or id, in the trash or not.
func (p *program) siteID(ctx context.Context, c *client, nameOrID string) (organization, site string, err error) {
	organization, err = p.organizationID(ctx, c)
	if err != nil {
		return "", "", err
	}
	if isID(nameOrID) {
		return organization, nameOrID, nil
	}
	all, err := c.allSites(ctx, organization, true)
	if err != nil {
		return "", "", err
	}
	var names []string
	for _, s := range all {
		if s.GetName() == nameOrID {
			return organization, s.GetId(), nil
		}
		names = append(names, s.GetName())
	}
	next := near(nameOrID, names) + "see them with: chom site list; those of another organization: chom site list --organization NAME"
	return "", "", notFoundf(next, "there is no site %q in this organization", plain(nameOrID))
}

// findTask looks where a task can be: in the named organization, or on a server itself and then in every organization.
func (p *program) findTask(ctx context.Context, c *client, id string) (*taskv1.Task, error) {
	if !isID(id) {
		return nil, usagef("a task is named by its id")
	}
	var places []string
	if p.organization != "" {
		organization, err := p.organizationID(ctx, c)
		if err != nil {
			return nil, err
		}
		places = []string{organization}
	} else {
		all, err := c.allOrganizations(ctx)
		if err != nil {
			return nil, err
		}
		places = []string{platform}
		for _, o := range all {
			places = append(places, o.GetId())
		}
	}
	for _, organization := range places {
		got, err := c.Tasks.GetTask(ctx, &taskv1.GetTaskRequest{OrganizationId: organization, TaskId: id})
		switch {
		case err == nil:
			return got.GetTask(), nil
		case connect.CodeOf(err) == connect.CodePermissionDenied && organization == platform:
			continue // not an operator: only organizations remain
		case connect.CodeOf(err) != connect.CodeNotFound:
			return nil, err
		}
	}
	return nil, notFoundf("see them with: chom task list", "there is no task %s", id)
}
