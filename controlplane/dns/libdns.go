package dns

import (
	"github.com/libdns/cloudflare"
	"github.com/libdns/hetzner/v2"
	"github.com/libdns/ovh"

	"chom.dev/controlplane/outbound"
)

func openCloudflare(c Credentials, _ *outbound.Dialer) zones {
	return &cloudflare.Provider{APIToken: c.value("api_token"), HTTPClient: fixedClient()}
}

func openHetzner(c Credentials, _ *outbound.Dialer) zones { return hetzner.New(c.value("api_token")) }

func openOVH(c Credentials, _ *outbound.Dialer) zones {
	return &ovh.Provider{
		Endpoint: c.value("endpoint"), ApplicationKey: c.value("application_key"), ApplicationSecret: c.value("application_secret"), ConsumerKey: c.value("consumer_key"),
	}
}
