package main

import "fmt"

// A user is what somebody does with a module.
type user struct {
	commands []string // to be installed, and asked for their help
	program  string   // to be run
}

var users = map[string]user{
	family: {program: program("", "client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize})")},
	family + "/failoverotel": {program: program(family+"/failoverotel",
		"client, transport, err := failoverotel.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize})")},
	family + "/failoverredis": {program: program(family+`/failoverredis"; import "github.com/redis/go-redis/v9`, `
	store := failoverredis.New(redis.NewClient(&redis.Options{Addr: "localhost:1"}), nil) // which is not there: no request waits for it
	defer store.Close()
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{Authorize: org.Authorize, Shared: store})`)},
	family + "/auth": {program: program(family+`/auth"; import "`+family+`/auth/authtest`, `
	service := authtest.Start(org)
	defer service.Close()
	tokens, err := auth.New(auth.Config{Organization: org.URL(), Source: auth.FromCredentials(service.Credential)})
	if err != nil {
		log.Fatal(err)
	}
	defer tokens.Close()
	cfg := tokens.Configure(failover.Config{})
	client, transport, err := failover.Wrap(org.Client(), org.URL(), &cfg)`)},
	family + "/cmd/failover":         {commands: []string{family + "/cmd/failover"}},
	family + "/examples":             {commands: []string{family + "/examples/odata", family + "/examples/soap"}},
	family + "/failoverotel/example": {commands: []string{family + "/failoverotel/example"}},
}

// program returns a program that imports another package, wraps a client, and makes a request
// during an outage.
func program(imports, wrap string) string {
	if imports != "" {
		imports = fmt.Sprintf(`import "%s"`, imports)
	}
	return fmt.Sprintf(`package main

import (
	"log"
	"net/http"

	"%[1]s"
	"%[1]s/failovertest"
)

%[2]s

func main() {
	org := failovertest.Start(nil)
	defer org.Close()
	%[3]s
	if err != nil {
		log.Fatal(err)
	}
	defer transport.Close()
	org.Disaster(failovertest.Refuse())
	resp, err := client.Get(org.URL() + "/api/data/v9.2/accounts")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || transport.Status().Active != failover.Alternate {
		log.Fatal(resp.Status, " from the ", transport.Status().Active)
	}
}
`, family, imports, wrap)
}
