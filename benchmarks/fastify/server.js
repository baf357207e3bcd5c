// The same API by Fastify, one process: schemas for what comes in and goes out, a token cache, prepared statements.

import { randomBytes } from 'node:crypto'
import Fastify from 'fastify'
import { createVerifier } from 'fast-jwt'
import { connect } from './statements.js'

const text = { type: 'string' }
const number = { type: 'integer' }
const yesOrNo = { type: 'boolean' }
const orNull = { type: ['string', 'null'] }
const row = { id: number, created_at: text, updated_at: text, version: number }
const User = object({ username: text, email: text, full_name: orNull, ...row, is_active: yesOrNo, is_superuser: yesOrNo })
const Item = object({ title: text, description: orNull, ...row, owner_id: number })
const title = { type: 'string', minLength: 1, maxLength: 255, pattern: '\\S' }
const description = { type: ['string', 'null'], maxLength: 1000 }
const Data = { ...object({ title, description }), required: ['title'], additionalProperties: false }
const Changes = { ...object({ title }), additionalProperties: false }
const Page = object({ skip: { type: 'integer', minimum: 0, default: 0 }, limit: { type: 'integer', minimum: 1, maximum: 100, default: 100 } })
const One = object({ id: { type: 'integer', minimum: 1 } })
const HEADERS = {
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'x-frame-options': 'DENY',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'"
}

function object (properties) {
  return { type: 'object', properties }
}

class Refused extends Error {
  constructor (statusCode) {
    super()
    this.statusCode = statusCode
  }
}

const database = await connect(process.env.DATABASE_URL)
const verify = createVerifier({
  key: process.env.SECRET_KEY, algorithms: ['HS256'], allowedAud: 'cadre', allowedIss: 'cadre', cache: 10000
})
const app = Fastify({ ajv: { customOptions: { removeAdditional: false } } })
app.decorateRequest('me', null)
app.decorateRequest('start', 0)

app.addHook('onRequest', async (request) => {
  request.start = performance.now()
  try {
    const claims = verify(request.headers.authorization.slice(7))
    request.me = [Number(claims.sub.slice(5)), claims.role === 'superuser', BigInt(claims.stamp)]
  } catch {
    throw new Refused(401)
  }
})

app.addHook('onSend', async (request, reply) => {
  reply.headers(HEADERS)
  reply.header('cache-control', request.method === 'GET' ? 'private, no-cache' : 'no-store')
  reply.header('x-request-id', randomBytes(8).toString('hex'))
  reply.header('x-process-time', ((performance.now() - request.start) / 1000).toFixed(6))
})

app.setErrorHandler((error, _request, reply) => {
  if (!error.statusCode) console.error(error)
  const status = error.validation ? 422 : error.statusCode ?? 500
  reply.code(status).send({ status })
})

async function only (request, name, ...values) {
  const rows = await database.run(name, [...request.me, ...values])
  if (rows.length) return rows[0]
  const known = await database.run('standing', request.me)
  throw new Refused(known.length ? 404 : 401)
}

app.get('/api/v1/users/me', { schema: { response: { 200: User } } }, async (request) => only(request, 'me'))

app.get(
  '/api/v1/items',
  { schema: { querystring: Page, response: { 200: { type: 'array', items: Item } } } },
  async (request) => database.run('page', [...request.me, request.query.limit, request.query.skip])
)

app.post('/api/v1/items', { schema: { body: Data, response: { 201: Item } } }, async (request, reply) => {
  const { title, description = null } = request.body
  const item = await only(request, 'create', database.now(), title, description)
  reply.code(201).header('location', `/api/v1/items/${item.id}`)
  return item
})

app.get('/api/v1/items/:id', { schema: { params: One, response: { 200: Item } } }, async (request) =>
  only(request, 'get', request.params.id)
)

app.patch('/api/v1/items/:id', { schema: { params: One, body: Changes, response: { 200: Item } } }, async (request) =>
  only(request, 'update', database.now(), request.body.title, request.params.id)
)

app.delete('/api/v1/items/:id', { schema: { params: One } }, async (request, reply) => {
  await only(request, 'remove', request.params.id)
  return reply.code(204).send()
})

await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 4096 })
