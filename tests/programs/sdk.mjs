// One library a call: prints the status of an answer.
import { createRequire } from 'node:module';

const require = createRequire(process.env.MODULES + '/');
const url = 'https://api.example.org/';
const libraries = {
    axios: async () => (await require('axios').get(url)).status,
    got: async () => (await (await import(process.env.MODULES + '/got/dist/source/index.js')).default(url)).statusCode,
    undici: async () => {
        const { request, EnvHttpProxyAgent, setGlobalDispatcher } = require('undici');
        setGlobalDispatcher(new EnvHttpProxyAgent());
        return (await request(url)).statusCode;
    },
};
console.log(await libraries[process.argv[2]]());
