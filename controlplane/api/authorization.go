package api

import (
	"bytes"
	"fmt"
	"html/template"
	"strings"

	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/rest"
)

// authorizationPage is the authorization table as a page of the documentation, made from the same rows that decide: a row for
// each method, grouped by service.
func authorizationPage() ([]byte, error) {
	page, err := template.ParseFS(docs, "docs/authorization.html")
	if err != nil {
		return nil, fmt.Errorf("make the page of the authorization table: %w", err)
	}
	services, err := accessRows()
	if err != nil {
		return nil, fmt.Errorf("make the page of the authorization table: %w", err)
	}
	var text bytes.Buffer
	if err := page.Execute(&text, services); err != nil {
		return nil, fmt.Errorf("make the page of the authorization table: %w", err)
	}
	return text.Bytes(), nil
}

// accessService is a service's part of the table.
type accessService struct {
	Name string
	Rows []accessRow
}

// accessRow is a row of the table in a few words for each column. An empty cell asks for nothing.
type accessRow struct {
	Operation                          string // the method, which is how openapi.json calls it too
	URLs                               []string
	Who, Role, Scope, Sites, Class     string
	StepUp, Session, InPerson, Secrets bool
}

func accessRows() ([]accessService, error) {
	router, err := rest.New(methods())
	if err != nil {
		return nil, err
	}
	urls := map[string][]string{}
	for _, route := range router.Routes() {
		urls[route.Procedure] = append(urls[route.Procedure], route.Method+" "+route.Path)
	}
	var all []accessService
	for _, file := range files {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			one := accessService{Name: strings.TrimSuffix(string(service.Name()), "Service")}
			for j := range service.Methods().Len() {
				name := string(service.Methods().Get(j).Name())
				procedure := "/" + string(service.FullName()) + "/" + name
				one.Rows = append(one.Rows, rules[procedure].row(name, urls[procedure]))
			}
			all = append(all, one)
		}
	}
	return all, nil
}

func (r rule) row(operation string, urls []string) accessRow {
	row := accessRow{
		Operation: operation, URLs: urls, Class: r.usualClass(),
		Who:    map[who]string{anybody: "anybody", signedIn: "signed in", operator: "operators", inOrganization: "members"}[r.who],
		StepUp: r.fresh, Session: r.session, InPerson: r.inPerson, Secrets: r.secret,
	}
	if r.who == inOrganization {
		row.Role = string(r.role)
		row.Sites = map[sites]string{allSites: "all", ofSite: "the one named", asReached: "those reached"}[r.sites]
		if r.role == organization.Viewer {
			row.Role = "any"
		}
	}
	if r.who == signedIn || r.who == operator {
		row.Sites = map[bool]string{true: "those reached", false: "all"}[r.bounded]
	}
	if r.who != anybody && !r.session {
		row.Scope = r.scope.String()
	}
	return row
}
