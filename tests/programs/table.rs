//! The programs, and what each does: nothing that it does not outside.

/// A program, and what it is tried with.
pub struct Program {
    /// As people call it.
    pub name: &'static str,
    /// The version that was tried last.
    pub tried: &'static str,
    /// Where it is from.
    pub from: From,
    /// What it does, as the page says it.
    pub does: &'static str,
    /// By what it trusts the sandbox's authority; `None` where it speaks no HTTPS.
    pub trusts: Option<&'static str>,
    /// Its file, where it has one of its own.
    pub needs: &'static str,
    /// A shell script that prints what came.
    pub script: &'static str,
    /// What it prints.
    pub prints: &'static str,
    /// A shell script that starts its server at `$SERVER`, with `$CERTIFICATE` and `$KEY`, and says `serving`
    /// once it answers; empty where it asks the usual ones.
    pub server: &'static str,
}

/// Where a program is from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Debian, and every test run needs it.
    Debian,
    /// Debian; large.
    DebianLarge,
    /// Debian; with a server.
    DebianServer,
    /// The Python Package Index.
    PyPi,
    /// The npm registry.
    Npm,
}

impl From {
    pub fn words(self) -> &'static str {
        match self {
            From::Debian | From::DebianLarge | From::DebianServer => "Debian",
            From::PyPi => "PyPI",
            From::Npm => "npm",
        }
    }
}

const SYSTEM: Option<&str> = Some("the system's list");
const SSL_CERT_FILE: Option<&str> = Some("`SSL_CERT_FILE`");
const REQUESTS: Option<&str> = Some("`REQUESTS_CA_BUNDLE`");
const NODE: Option<&str> = Some("`NODE_EXTRA_CA_CERTS`");
const POLICY: Option<&str> = Some("its administrator's policy");

const fn debian(name: &'static str, tried: &'static str, does: &'static str) -> Program {
    Program {
        name,
        tried,
        from: From::Debian,
        does,
        trusts: SYSTEM,
        needs: name,
        script: "",
        prints: "200\n200\n",
        server: "",
    }
}

macro_rules! python {
    ($name:literal, $tried:literal, $trusts:expr, $does:literal, $prints:literal) => {
        Program {
            script: concat!(
                "PYTHONPATH=$TOOLS/python /usr/bin/python3 $HOME/sdk.py ",
                $name
            ),
            from: From::PyPi,
            needs: "python3",
            trusts: $trusts,
            prints: $prints,
            ..debian($name, $tried, $does)
        }
    };
}

macro_rules! node {
    ($name:literal, $tried:literal) => {
        Program {
            script: concat!("node $HOME/sdk.mjs ", $name),
            from: From::Npm,
            needs: "node",
            trusts: NODE,
            prints: "200\n",
            ..debian($name, $tried, "gets a page over HTTPS")
        }
    };
}

macro_rules! agent {
    ($name:literal, $tried:literal, $script:literal) => {
        Program {
            script: concat!("PATH=$PATH:$TOOLS/node_modules/.bin; ", $script),
            from: From::Npm,
            needs: "node",
            prints: "hello\n",
            ..debian($name, $tried, "asks its model, non-interactively")
        }
    };
}

/// All of them. Debian's Python by its path, since its packages belong to it.
pub const PROGRAMS: &[Program] = &[
    Program {
        script: "for url in http https; do curl -sS -o /dev/null -w '%{http_code}\\n' $url://api.example.org/; done",
        ..debian("curl", "7.88.1", "gets a page over HTTP and HTTPS")
    },
    Program {
        script: "for url in http https; do wget -q --ca-certificate=$SSL_CERT_FILE -O /dev/null --server-response $url://api.example.org/ 2>&1 | \
                 sed -n 's/^ *HTTP[^ ]* \\([0-9]*\\).*/\\1/p'; done",
        ..debian("wget", "1.21.3", "gets a page over HTTP and HTTPS")
    },
    Program {
        script: "cd $HOME; aria2c -q --ca-certificate=$SSL_CERT_FILE --allow-overwrite=true -o page https://api.example.org/ && cat page",
        needs: "aria2c",
        trusts: SSL_CERT_FILE,
        prints: "<p>hello</p>\n",
        ..debian("aria2", "1.36.0", "downloads a file over HTTPS")
    },
    Program {
        script: "git ls-remote https://api.example.org/none.git 2>&1 | grep -c 'not valid: is this a git'",
        prints: "1\n",
        ..debian(
            "git",
            "2.39.5",
            "asks for the branches of a repository that does not exist",
        )
    },
    Program {
        script: "/usr/bin/python3 -c 'import urllib.request as u\nfor s in (\"http\", \"https\"): print(u.urlopen(s + \"://api.example.org/\").status)'",
        needs: "python3",
        ..debian("Python's urllib", "3.11", "gets a page over HTTP and HTTPS")
    },
    Program {
        script: "/usr/bin/python3 -c 'import requests\nfor s in (\"http\", \"https\"): print(requests.get(s + \"://api.example.org/\").status_code)'",
        needs: "python3",
        trusts: REQUESTS,
        ..debian("requests", "2.28.1", "gets a page over HTTP and HTTPS")
    },
    Program {
        script: "/usr/bin/python3 -c 'import httpx\nfor s in (\"http\", \"https\"): print(httpx.get(s + \"://api.example.org/\").status_code)'",
        needs: "python3",
        trusts: SSL_CERT_FILE,
        ..debian("httpx", "0.23.3", "gets a page over HTTP and HTTPS")
    },
    Program {
        script: "/usr/bin/python3 -c '\nimport asyncio, aiohttp\nasync def main():\n\
                 \x20async with aiohttp.ClientSession(trust_env=True) as s:\n\
                 \x20 for u in (\"http\", \"https\"):\n\
                 \x20  async with s.get(u + \"://api.example.org/\") as r: print(r.status)\nasyncio.run(main())'",
        needs: "python3",
        ..debian("aiohttp", "3.8.4", "gets a page over HTTP and HTTPS")
    },
    Program {
        script: "node -e '(async () => { for (const s of [\"http\", \"https\"]) console.log((await fetch(s + \"://api.example.org/\")).status); })()'",
        trusts: NODE,
        ..debian("node", "20.20.2", "fetches a page over HTTP and HTTPS")
    },
    Program {
        script: "ruby -e 'require \"net/http\"; [\"http\", \"https\"].each { |s| puts Net::HTTP.get_response(URI(s + \"://api.example.org/\")).code }'",
        ..debian("ruby", "3.1.2", "gets a page over HTTP and HTTPS")
    },
    Program {
        script: "ffmpeg -nostats -loglevel error -i $PAGE -f null - 2>&1 | tail -1 | sed s/https:/http:/",
        from: From::DebianLarge,
        prints: "http://api.example.org/: Invalid data found when processing input\n",
        ..debian("ffmpeg", "5.1.9", "reads a page that is not a video")
    },
    Program {
        script: "php -r 'foreach ([\"http\", \"https\"] as $s) echo file_get_contents(\"$s://api.example.org/\");'",
        from: From::DebianLarge,
        prints: "<p>hello</p>\n<p>hello</p>\n",
        ..debian("php", "8.2.36", "gets a page over HTTP and HTTPS")
    },
    Program {
        script: "rm -rf $HOME/chromium; chromium --headless --no-sandbox --disable-gpu --user-data-dir=$HOME/chromium \
                 --dump-dom $PAGE 2>/dev/null | grep -o '<p>hello</p>'",
        from: From::DebianLarge,
        trusts: POLICY,
        prints: "<p>hello</p>\n",
        ..debian("chromium", "156", "shows a page")
    },
    Program {
        script: "rm -rf $HOME/firefox $HOME/shot.png; mkdir $HOME/firefox; timeout 40 firefox-esr --headless --profile $HOME/firefox \
                 --screenshot $HOME/shot.png $PAGE > /dev/null 2>&1; head -c 4 $HOME/shot.png | tail -c 3; echo",
        from: From::DebianLarge,
        needs: "firefox-esr",
        trusts: POLICY,
        prints: "PNG\n",
        ..debian("firefox", "153.8 (ESR)", "shows a page")
    },
    Program {
        script: "redis-cli -h db.example.org ping; redis-cli --tls -p 6380 -h db.example.org ping; \
                 redis-cli --tls --sni db.example.org -p 6380 -h db.example.org ping",
        from: From::DebianServer,
        needs: "redis-server",
        trusts: None,
        prints: "PONG\nPONG\nPONG\n",
        server: "redis-server --bind $SERVER --port 6379 --tls-port 6380 --tls-cert-file $CERTIFICATE --tls-key-file $KEY \
                 --tls-ca-cert-file $CERTIFICATE --tls-auth-clients no --protected-mode no --save '' > /dev/null & \
                 until redis-cli -h $SERVER ping 2> /dev/null | grep -q PONG; do sleep 0.1; done; echo serving; wait",
        ..debian(
            "redis-cli",
            "7.0.15",
            "asks a Redis server: plain, over TLS without and with a name",
        )
    },
    Program {
        script: "for mode in disable require; do psql \"host=db.example.org user=postgres sslmode=$mode\" \
                 -Atc 'select ssl from pg_stat_ssl where pid = pg_backend_pid()'; done",
        from: From::DebianServer,
        needs: "psql",
        trusts: None,
        prints: "f\nt\n",
        server: "PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); initdb -U postgres -A trust -D pg > /dev/null; \
                 echo 'host all all all trust' >> pg/pg_hba.conf; cp $KEY pg/key; cp $CERTIFICATE pg/certificate; chmod 600 pg/key; \
                 postgres -D pg -c listen_addresses=$SERVER -c unix_socket_directories=$PWD -c ssl=on \
                 -c ssl_cert_file=certificate -c ssl_key_file=key 2> /dev/null & \
                 until pg_isready -q -h $SERVER; do sleep 0.1; done; echo serving; wait",
        ..debian(
            "psql",
            "15.18",
            "asks a PostgreSQL server, plain and over TLS",
        )
    },
    Program {
        script: "mariadb -h db.example.org --protocol=tcp -Ne 'select 1'; \
                 mariadb --ssl -h db.example.org -Ne 'show status like \"Ssl_version\"' | cut -f2",
        from: From::DebianServer,
        needs: "mariadb",
        trusts: None,
        prints: "1\nTLSv1.3\n",
        server: "mariadb-install-db --no-defaults --datadir=$PWD/my > /dev/null 2>&1; \
                 mariadbd --no-defaults --datadir=$PWD/my --bind-address=$SERVER --socket=$PWD/my/socket --skip-grant-tables \
                 --skip-networking=0 --ssl-cert=$CERTIFICATE --ssl-key=$KEY 2> /dev/null & \
                 until mariadb-admin --no-defaults -h $SERVER --protocol=tcp ping > /dev/null 2>&1; do sleep 0.1; done; \
                 echo serving; wait",
        ..debian(
            "mariadb",
            "10.11.19",
            "asks a MariaDB server, plain and over TLS",
        )
    },
    Program {
        script: "swaks -t to@example.org -f from@example.org -s smtp.example.org --silent 1; echo $?",
        from: From::DebianServer,
        needs: "swaks",
        trusts: None,
        prints: "0\n",
        ..debian("swaks", "20201014.0", "sends mail")
    },
    Program {
        script: "kubectl --kubeconfig /dev/null --server https://api.example.org --token none get --raw /",
        from: From::DebianServer,
        needs: "kubectl",
        prints: "<p>hello</p>\n",
        ..debian("kubectl", "1.32.4", "asks its server")
    },
    python!(
        "openai",
        "3.57.0",
        SSL_CERT_FILE,
        "asks a model: at once, as a stream, asynchronously",
        "hello\nhello\nhello\n"
    ),
    python!(
        "anthropic",
        "2.14.0",
        SSL_CERT_FILE,
        "asks a model: at once and as a stream",
        "hello\nhello\n"
    ),
    python!(
        "huggingface_hub",
        "2.4.0",
        SSL_CERT_FILE,
        "asks whether a file exists",
        "True\n"
    ),
    python!(
        "botocore",
        "1.44.8",
        Some("`AWS_CA_BUNDLE`"),
        "asks for a bucket",
        "200\n"
    ),
    node!("axios", "1.21.1"),
    node!("got", "14.6.6"),
    node!("undici", "7.30.2"),
    agent!(
        "Claude Code",
        "2.1.197",
        "ANTHROPIC_API_KEY=none DISABLE_AUTOUPDATER=1 claude -p 'say hello'"
    ),
    agent!(
        "Codex",
        "0.171.0",
        "mkdir -p $HOME/.codex; printf 'model_provider = \"m\"\\nmodel = \"m\"\\n[model_providers.m]\\nname = \"m\"\\n\
         base_url = \"https://api.openai.com/v1\"\\nenv_key = \"OPENAI_API_KEY\"\\nwire_api = \"responses\"\\n' > $HOME/.codex/config.toml; \
         OPENAI_API_KEY=none codex exec --skip-git-repo-check -s danger-full-access 'say hello' 2>/dev/null"
    ),
    agent!(
        "opencode",
        "1.18.33",
        "OPENAI_API_KEY=none opencode run --model openai/gpt-4o 'say hello' 2>/dev/null | grep hello"
    ),
];
