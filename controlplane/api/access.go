package api

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/openapi"
	"chom.dev/controlplane/organization"
)

// Methods are all that people can call, by procedure.
func Methods() map[string]protoreflect.MethodDescriptor { return methods() }

// AccessOf is a row of the table for readers of the documentation.
func AccessOf(procedure string) openapi.Access {
	r := rules[procedure]
	return openapi.Access{Words: r.words(), Anybody: r.who == anybody, SessionOnly: r.session, Class: r.usualClass()}
}

// usualClass is the class that calls count in, of those whom a method is for.
func (r rule) usualClass() string {
	return classOf(r, &account.Caller{Account: account.Account{Operator: r.who == operator}})
}

// words say the rule in sentences.
func (r rule) words() string {
	var words []string
	switch r.who {
	case anybody:
		words = append(words, "Anybody may call it.")
	case signedIn:
		words = append(words, "For whoever is signed in.")
	case operator:
		words = append(words, "For operators of the platform.")
	case inOrganization:
		who := map[organization.Role]string{
			organization.Viewer: "all members of the organization", organization.Member: "members, admins and owners of the organization",
			organization.Admin: "admins and owners of the organization", organization.Owner: "owners of the organization",
		}[r.role]
		words = append(words, "For "+who+", and for operators.")
	}
	if r.who != anybody && !r.session {
		words = append(words, fmt.Sprintf("A token needs the scope %s.", r.scope))
	}
	switch {
	case r.who == inOrganization && r.sites == allSites:
		words = append(words, "Who is bound to some of the organization's sites may not.")
	case (r.who == signedIn || r.who == operator) && !r.bounded && !r.session:
		words = append(words, "A token that is bound to an organization or to some sites will not do.")
	}
	if r.session {
		words = append(words, "It takes a session: no token will do.")
	}
	if r.inPerson {
		words = append(words, "It is for people themselves: neither for an organization's token nor for an operator who acts for somebody.")
	}
	if r.fresh {
		words = append(words, "A session must have proved in the last minutes that its person still sits there.")
	}
	if r.secret {
		words = append(words, "The answer shows a secret, once.")
	}
	return strings.Join(words, " ")
}
