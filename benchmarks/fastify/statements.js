// The verbs' SQL on better-sqlite3 or pg: prepared once, the caller's standing asked in the same statement.

const USER = 'id, created_at, updated_at, version, username, email, full_name, is_active, is_superuser'
const ITEM = 'id, created_at, updated_at, version, title, description, owner_id'
// $1, $2 and $3 are the caller's id, role and stamp.
const ME =
  'EXISTS (SELECT * FROM users AS me WHERE me.id = $1 AND me.is_active AND me.is_superuser = $2 AND me.security_stamp = $3)'
const MINE = `${ME} AND owner_id = $1`
const STATEMENTS = {
  standing: `SELECT 1 WHERE ${ME}`,
  me: `SELECT ${USER} FROM users WHERE id = $1 AND ${ME}`,
  get: `SELECT ${ITEM} FROM items WHERE id = $4 AND ${MINE}`,
  page: `SELECT ${ITEM} FROM items WHERE ${MINE} ORDER BY id DESC LIMIT $4 OFFSET $5`,
  create:
    'INSERT INTO items (created_at, updated_at, title, description, owner_id, version)' +
    ` SELECT CAST($4 AS timestamptz), CAST($4 AS timestamptz), $5, $6, CAST($1 AS bigint), 1 WHERE ${ME} RETURNING ${ITEM}`,
  update:
    'UPDATE items SET updated_at = CAST($4 AS timestamptz), title = $5, version = version + 1' +
    ` WHERE id = $6 AND ${MINE} RETURNING ${ITEM}`,
  remove: `DELETE FROM items WHERE id = $4 AND ${MINE} RETURNING id`
}

export async function connect (url) {
  return url.startsWith('sqlite') ? sqlite(url.replace('sqlite:///', '')) : postgres(url)
}

async function sqlite (path) {
  const { default: Database } = await import('better-sqlite3')
  const database = new Database(path)
  for (const pragma of ['journal_mode = WAL', 'synchronous = NORMAL', 'foreign_keys = ON']) database.pragma(pragma)
  const prepared = {}
  for (const [name, sql] of Object.entries(STATEMENTS)) {
    // This driver takes values in the order of the marks, one for each.
    const order = []
    const plain = sql.replace(/CAST\((\$\d) AS \w+\)/g, '$1').replace(/\$(\d)/g, (_, digit) => order.push(digit - 1) && '?')
    prepared[name] = { statement: database.prepare(plain), order }
  }
  return {
    now: () => new Date().toISOString().replace('T', ' ').replace('Z', '000'),
    run: (name, values) => {
      const { statement, order } = prepared[name]
      const rows = statement.all(order.map(at => typeof values[at] === 'boolean' ? Number(values[at]) : values[at]))
      for (const row of rows) stamp(row, text => text.replace(' ', 'T') + 'Z')
      return rows
    }
  }
}

async function postgres (url) {
  const { default: pg } = await import('pg')
  pg.types.setTypeParser(20, Number) // bigint: ids stay below 2^53
  // As text: a Date would lose the microseconds.
  pg.types.setTypeParser(1184, text => text)
  const pool = new pg.Pool({ connectionString: url, max: 10, options: '-c timezone=UTC' })
  return {
    now: () => new Date().toISOString(),
    run: async (name, values) => {
      const { rows } = await pool.query({ name, text: STATEMENTS[name], values })
      for (const row of rows) stamp(row, text => text.slice(0, 10) + 'T' + text.slice(11, -3).padEnd(15, '0') + 'Z')
      return rows
    }
  }
}

function stamp (row, iso) {
  if (row.created_at === undefined) return
  row.created_at = iso(row.created_at)
  row.updated_at = iso(row.updated_at)
}
