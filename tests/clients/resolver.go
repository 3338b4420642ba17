// What a Go program without libc sees of names: the standard library's own resolver, which reads
// /etc/resolv.conf and speaks DNS itself. Arguments are KIND=NAME; each prints one line.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	ctx := context.Background()
	for _, argument := range os.Args[1:] {
		kind, name, _ := strings.Cut(argument, "=")
		var found []string
		var err error
		switch kind {
		case "host":
			found, err = resolver.LookupHost(ctx, name)
		case "cname":
			var one string
			one, err = resolver.LookupCNAME(ctx, name)
			found = []string{one}
		case "txt":
			found, err = resolver.LookupTXT(ctx, name)
		case "addr":
			found, err = resolver.LookupAddr(ctx, name)
		case "mx":
			var all []*net.MX
			all, err = resolver.LookupMX(ctx, name)
			for _, one := range all {
				found = append(found, fmt.Sprint(one.Pref, " ", one.Host))
			}
		case "ns":
			var all []*net.NS
			all, err = resolver.LookupNS(ctx, name)
			for _, one := range all {
				found = append(found, one.Host)
			}
		case "srv":
			var all []*net.SRV
			_, all, err = resolver.LookupSRV(ctx, "", "", name)
			for _, one := range all {
				found = append(found, fmt.Sprint(one.Priority, " ", one.Weight, " ", one.Port, " ", one.Target))
			}
		}
		var failed *net.DNSError
		if errors.As(err, &failed) {
			found = []string{fmt.Sprint("not found ", failed.IsNotFound, " temporary ", failed.IsTemporary)}
		}
		sort.Strings(found)
		fmt.Println(argument, strings.Join(found, " "))
	}
}
