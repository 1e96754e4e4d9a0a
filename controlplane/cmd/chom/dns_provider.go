package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"
	"sigs.k8s.io/yaml"

	domainv1 "chom.dev/proto/gen/chom/domain/v1"
)

func (p *program) providerCommand() *cobra.Command {
	cmd := group("provider", "DNS providers: services in which CHOM makes an organization's DNS records by itself", []string{"providers"},
		p.providerAdd(), p.providerList(), p.providerShow(), p.providerRecords(), p.providerRemove())
	cmd.Long = `With a DNS provider the records that sites, claims and certificates need are made in its zones, and removed again. A record
that CHOM has not made is never touched.`
	return cmd
}

// credentialsHelp says what each service asks for: the fields of its message in domain/v1/provider.proto.
const credentialsHelp = `The file holds what the service asks for, as lines NAME: VALUE or as JSON; - reads it from standard input:

  cloudflare    api_token, with the rights to read zones and to edit DNS
  hetzner       api_token of the project in Hetzner's Cloud console that has the zones
  digitalocean  api_token, with the right to write domains
  route53       access_key_id, secret_access_key; region where it is one of China or of the US government
  ovh           endpoint (ovh-eu, ovh-ca or ovh-us), application_key, application_secret, consumer_key
  powerdns      server_url (https://dns.example.com:8081), api_key; server_id where it is not localhost
  rfc2136       server (ns1.example.com:53), key_name, key_algorithm (hmac-sha256, hmac-sha384 or hmac-sha512), key (in base64);
                the key must allow to transfer the zone (AXFR) and to update it

The service is called for each zone before anything is stored. What is in the file is sealed, and never shown again.`

func (p *program) providerAdd() *cobra.Command {
	var kind, file string
	var zones []string
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "add NAME",
		Short: "Connect a DNS service",
		Long:  credentialsHelp,
		Example: `  chom domain provider add main --type cloudflare --zone example.com --zone example.org --credentials-file token.yaml
  pass show dns/hetzner | chom domain provider add main --type hetzner --zone example.com --credentials-file -`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if kind == "" || len(zones) == 0 || file == "" {
				return usagef("--type, --zone and --credentials-file are needed")
			}
			credentials, err := p.readCredentials(kind, file)
			if err != nil {
				return err
			}
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			made, err := c.DNSProviders.CreateDnsProvider(ctx, &domainv1.CreateDnsProviderRequest{
				OrganizationId: organization, Name: args[0], Zones: zones, Credentials: credentials,
			})
			if err != nil {
				return err
			}
			return p.showProvider(made.GetProvider())
		}),
	})
	cmd.Flags().StringVar(&kind, "type", "", "the service: "+strings.Join(providerTypes(), ", "))
	cmd.Flags().StringSliceVar(&zones, "zone", nil, "zone to make records in; several times for more")
	cmd.Flags().StringVar(&file, "credentials-file", "", "file with what lets in to it, or - for standard input")
	completeFlag(cmd, "type", fixed(providerTypes()...))
	return cmd
}

// services are the services in a message of credentials.
func services() protoreflect.FieldDescriptors {
	return (*domainv1.DnsProviderCredentials)(nil).ProtoReflect().Descriptor().Oneofs().ByName("service").Fields()
}

func providerTypes() []string {
	var all []string
	for i := range services().Len() {
		all = append(all, string(services().Get(i).Name()))
	}
	slices.Sort(all)
	return all
}

// maxCredentials is far above what any service asks for.
const maxCredentials = 64 << 10

// readCredentials reads a file of a service's fields. No error holds anything of the values.
func (p *program) readCredentials(kind, name string) (*domainv1.DnsProviderCredentials, error) {
	service := services().ByName(protoreflect.Name(kind))
	if service == nil {
		return nil, usagef("--type must be one of: %s", strings.Join(providerTypes(), ", "))
	}
	from := p.in
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--credentials-file: %w", err)
		}
		defer file.Close()
		from = file
	}
	text, err := io.ReadAll(io.LimitReader(from, maxCredentials+1))
	if err == nil && len(text) > maxCredentials {
		err = errors.New("more than 64 KiB")
	}
	if err != nil {
		return nil, fmt.Errorf("--credentials-file: %w", err)
	}
	var values map[string]string
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, usagef("--credentials-file must hold lines NAME: VALUE, or JSON")
	}
	var known []string
	for i := range service.Message().Fields().Len() {
		known = append(known, string(service.Message().Fields().Get(i).Name()))
	}
	credentials := &domainv1.DnsProviderCredentials{}
	fields := credentials.ProtoReflect().Mutable(service).Message()
	for name, value := range values {
		field := service.Message().Fields().ByName(protoreflect.Name(name))
		if field == nil {
			return nil, usagef("--credentials-file: a field is none of %s, which has %s", kind, strings.Join(known, ", "))
		}
		fields.Set(field, protoreflect.ValueOfString(value))
	}
	return credentials, nil
}

func (p *program) providerList() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List an organization's DNS providers",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := allProviders(ctx, c, organization)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, one := range all {
				rows = append(rows, []string{one.GetName(), one.GetType(), strings.Join(one.GetZones(), " "), one.GetProblem()})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "TYPE", "ZONES", "PROBLEM"}, rows)
			})
		}),
	})
}

func (p *program) providerShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "show PROVIDER",
		Short: "Show a DNS provider, without its credentials",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.providerID(ctx, c, args[0])
			if err != nil {
				return err
			}
			found, err := c.DNSProviders.GetDnsProvider(ctx, &domainv1.GetDnsProviderRequest{OrganizationId: organization, ProviderId: id})
			if err != nil {
				return err
			}
			return p.showProvider(found.GetProvider())
		}),
	})
}

func (p *program) providerRecords() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "records PROVIDER",
		Short: "List the records that were made with a DNS provider, or are to be made",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.providerID(ctx, c, args[0])
			if err != nil {
				return err
			}
			var all []*domainv1.ManagedRecord
			var rows [][]string
			for request := (&domainv1.ListManagedRecordsRequest{OrganizationId: organization, ProviderId: id, PageSize: largestPage}); ; {
				page, err := c.DNSProviders.ListManagedRecords(ctx, request)
				if err != nil {
					return err
				}
				all = append(all, page.GetRecords()...)
				if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
					break
				}
			}
			for _, r := range all {
				rows = append(rows, []string{r.GetName(), r.GetType(), r.GetValue(), short(r.GetState(), "RECORD_STATE_"), r.GetPurpose(), r.GetProblem()})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "TYPE", "VALUE", "STATE", "FOR", "PROBLEM"}, rows)
			})
		}),
	})
}

func (p *program) providerRemove() *cobra.Command {
	var yes bool
	return yesFlag(p.organizationFlag(&cobra.Command{
		Use:     "remove PROVIDER",
		Aliases: []string{"rm"},
		Short:   "Forget a DNS provider and its credentials",
		Long:    "The records that were made stay in the DNS, since sites need them. Nobody keeps account of them any more.",
		Args:    exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.providerID(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This forgets the DNS provider "+plain(args[0])+"; its records stay as they are", args[0]); err != nil {
				return err
			}
			gone, err := c.DNSProviders.DeleteDnsProvider(ctx, &domainv1.DeleteDnsProviderRequest{OrganizationId: organization, ProviderId: id})
			if err != nil {
				return err
			}
			return p.done(gone, "The DNS provider %s is removed; its records stay as they are.", args[0])
		}),
	}), &yes)
}

func allProviders(ctx context.Context, c *client, organization string) ([]*domainv1.DnsProvider, error) {
	var all []*domainv1.DnsProvider
	for request := (&domainv1.ListDnsProvidersRequest{OrganizationId: organization, PageSize: largestPage}); ; {
		page, err := c.DNSProviders.ListDnsProviders(ctx, request)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetProviders()...)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return all, nil
		}
	}
}

// providerID finds a DNS provider by its name or id.
func (p *program) providerID(ctx context.Context, c *client, nameOrID string) (organization, provider string, err error) {
	if organization, err = p.organizationID(ctx, c); err != nil || isID(nameOrID) {
		return organization, nameOrID, err
	}
	all, err := allProviders(ctx, c, organization)
	if err != nil {
		return "", "", err
	}
	found, err := only(all, "DNS provider", nameOrID, "chom domain provider list", (*domainv1.DnsProvider).GetId, (*domainv1.DnsProvider).GetName)
	return organization, found.GetId(), err
}

func (p *program) showProvider(d *domainv1.DnsProvider) error {
	return p.print(d, nil, func() error {
		return printFields(p.out, [][2]string{
			{"name", d.GetName()},
			{"id", d.GetId()},
			{"type", d.GetType()},
			{"zones", strings.Join(d.GetZones(), " ")},
			{"problem", d.GetProblem()},
			{"called", at(d.GetCallTime())},
			{"created", at(d.GetCreateTime())},
		})
	})
}
