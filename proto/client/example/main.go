// Example lists the organizations that a token reaches. It is a module of its own, as a user's program is.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"chom.dev/proto/client"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
)

func main() {
	chom := client.New(os.Getenv("CHOM_URL"), os.Getenv("CHOM_TOKEN"))
	list, err := chom.Organizations.ListOrganizations(context.Background(), &organizationv1.ListOrganizationsRequest{})
	if err != nil {
		log.Fatal(err)
	}
	for _, organization := range list.GetOrganizations() {
		fmt.Println(organization.GetId(), organization.GetName())
	}
}
